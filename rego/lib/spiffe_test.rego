package gatehouse.lib.spiffe_test

import data.gatehouse.lib.spiffe

test_mesh_id_uses_the_inventorys_trust_domain if {
	spiffe.mesh_id("shop", "frontend") == "spiffe://example.org/ns/shop/sa/frontend" with data.inventory.trust_domain as "example.org"
}

test_id_names_a_foreign_trust_domain if {
	spiffe.id("partner.example", "shop", "frontend") == "spiffe://partner.example/ns/shop/sa/frontend"
}

test_mesh_id_is_undefined_without_an_inventory if {
	not spiffe.mesh_id("shop", "frontend") with data.inventory as {}
}
