"""Who may do what: keys, tokens, roles, certificates, host names."""
