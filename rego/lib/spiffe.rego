# METADATA
# title: SPIFFE IDs of mesh workloads
# description: |
#   Builds the identity of a workload from its namespace and service account, the way the mesh
#   spells it: spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
#   Policies compare whole identities. A namespace alone does not say whose namespace it is.
package gatehouse.lib.spiffe

# METADATA
# title: The SPIFFE ID of a service account in the inventory's own trust domain
mesh_id(namespace, service_account) := id(data.inventory.trust_domain, namespace, service_account)

# METADATA
# title: The SPIFFE ID of a service account in a named trust domain
id(trust_domain, namespace, service_account) := sprintf(
	"spiffe://%s/ns/%s/sa/%s",
	[trust_domain, namespace, service_account],
)
