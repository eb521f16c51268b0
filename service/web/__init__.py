"""The service behind the gateway: Connexion and Flask, known to nobody else."""
