"""The storefront: what buyers see. Every page works as plain HTML and forms; scripts keep it up to date."""
