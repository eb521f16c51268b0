"""Tools to build the zip, check the contract and generate the documentation; not part of the package."""
