from twisted_kv.tls import MutualTls

mtls = MutualTls()
