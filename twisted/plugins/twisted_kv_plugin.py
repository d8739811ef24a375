from twisted.application.service import ServiceMaker

kvnode = ServiceMaker("kvnode", "twisted_kv.node", "A storage node of twisted_kv.", "kvnode")
kvproxy = ServiceMaker("kvproxy", "twisted_kv.proxy", "The smart proxy of twisted_kv.", "kvproxy")
kvcluster = ServiceMaker("kvcluster", "twisted_kv.cluster", "A whole twisted_kv cluster on one machine.", "kvcluster")
