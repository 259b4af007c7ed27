"""The one door to HashiCorp Vault and OpenBao, on hvac.

    adapter     one HTTP exchange through hvac, bounded in time and size, never redirected
    exchange    what the others need of it
    answers     what came, and which of our errors it is
    breaker     stops asking a server that doesn't answer
    door        a call: token, retries, breaker; from threads (`call`) and from the event loop (`ask`)
    logins      token, AppRole, Kubernetes, JWT, certificate
    own         logging in by SVIDs of our own, and by a token before there are any
    tokens      the token in use: renewed before need, replaced once it is refused
    chains      certificates as a server lists them, put in order
    pki         `authority.vault_ports.VaultPki`
    transit     `authority.ports.KeyManager`
    secrets     values kept in Vault, for settings
    policies    the least that each way of use needs, as Vault's HCL
    inspection  what is missing on a live server, step by step
    preparation mount, role and policy: a plan, and carrying it out

Vault and OpenBao, where they differ: found by running tests/clients/vault and the system tests of Vault over
both, Vault 1.21.1 and OpenBao 2.6.2; what is in parentheses is from their documentation:

    what                                      Vault                         OpenBao
    URI name constraint on sign-intermediate  `permitted_uri_domains`       none: it is taken from the CSR
                                                                            (`use_csr_values`)
    reads at a server that isn't active       none: 500                     answered
    `sys/health` 472, 473                     (Enterprise)                  (never)
    namespaces                                (Enterprise)                  yes
    standby servers sign with `no_store`      (Enterprise)                  (yes)
    Kubernetes login                          (yes); absent in a build      yes
                                              with the tag `minimal`

A full disk takes both the leading server away ("active cluster node not found"), and room brings it back.
"""
