module gatehouse.test/peers/istio

go 1.26

require istio.io/api v1.31.1
