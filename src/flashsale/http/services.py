"""How a route asks for the use cases."""

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from flashsale.usecases.services import Services

UseServices = NamedDependency[SkipValidation[Services]]
