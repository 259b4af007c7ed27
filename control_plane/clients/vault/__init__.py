"""The one door to HashiCorp Vault and OpenBao, on hvac.

    adapter     one HTTP exchange through hvac, bounded in time and size, never redirected
    exchange    what the others need of it
    answers     what came, and which of our errors it is
    breaker     stops asking a server that doesn't answer
    door        a call: token, retries, breaker; from threads (`call`) and from the event loop (`ask`)
    logins      token, AppRole, Kubernetes, JWT, certificate
    tokens      the token in use: renewed before need, replaced once it is refused
    chains      certificates as a server lists them, put in order
    pki         `authority.vault_ports.VaultPki`
    transit     `authority.ports.KeyManager`
    secrets     values kept in Vault, for settings
    policies    the least that each way of use needs, as Vault's HCL
    inspection  what is missing on a live server, step by step
    preparation mount, role and policy: a plan, and carrying it out

Vault and OpenBao, where they differ. tests/clients/vault runs the same tests over both; OpenBao's column is
from its documentation (2.6) as long as nobody has run them there:

    what                                      Vault 1.21                    OpenBao 2.x
    URI name constraint on sign-intermediate  `permitted_uri_domains`       none: it is taken from the CSR
                                                                            (`use_csr_values`)
    `sys/health` 472, 473                     Enterprise                    never
    namespaces                                Enterprise                    yes
    standby nodes sign with `no_store`        Enterprise                    yes
    Kubernetes login                          yes; absent in a build with   yes
                                              the tag `minimal`
"""
