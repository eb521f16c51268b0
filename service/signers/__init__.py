"""Where the CA's key lives. Each module gives a `service.pki.issuer.Issuer`; none is imported unasked."""
