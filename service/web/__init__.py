"""The service behind the gateway: Connexion executes the contract. Nothing else knows Connexion and Flask."""
