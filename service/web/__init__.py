"""The service behind the gateway: Connexion executes the contract. Only this package imports it and Flask."""
