"""The client that a generator makes of the OpenAPI document buys; `nox -s clients` also checks types and TypeScript."""

from tests.clients.run import buy_with_python, generate_python


def test_a_generated_python_client_buys(stack, admin, tmp_path):
    generate_python(stack.base_url, tmp_path)
    buy_with_python(stack.base_url, admin, tmp_path)
