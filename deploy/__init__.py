"""What is needed to deploy to AWS; none of it is in the package."""
