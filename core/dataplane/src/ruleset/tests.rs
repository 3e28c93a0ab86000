//! Golden rulesets: the text is what the kernel gets.

use super::{full, remove, update};
use crate::diff::NetworkDiff;
use crate::network::Protocol::{Tcp, Udp};
use crate::network::PublishMode::{Host, Ingress};
use crate::network::tests::{bridge, endpoint, port};
use crate::network::{NodeNetwork, PublishedPort};

fn network(published: Vec<PublishedPort>) -> NodeNetwork {
    NodeNetwork::from_parts(bridge(), vec![endpoint("a", 2), endpoint("b", 3)], published).unwrap()
}

#[test]
fn a_bridge_without_ports() {
    insta::assert_snapshot!(full(&network(vec![])), @r#"
    add table ip skep
    delete table ip skep
    table ip skep {
    	map ports {
    		type inet_proto . inet_service : verdict
    	}
    	chain dispatch {
    		ip protocol . th dport vmap @ports
    	}
    	chain prerouting {
    		type nat hook prerouting priority -100; policy accept;
    		fib daddr type local jump dispatch
    	}
    	chain output {
    		type nat hook output priority -100; policy accept;
    		fib daddr type local jump dispatch
    	}
    	chain postrouting {
    		type nat hook postrouting priority 100; policy accept;
    		oifname "skep0" ip saddr { 127.0.0.0/8, 172.18.0.0/16 } masquerade
    		oifname != "skep0" ip saddr 172.18.0.0/16 masquerade
    	}
    	chain forward {
    		type filter hook forward priority 0; policy accept;
    		oifname != "skep0" accept
    		ct state established,related accept
    		ct status dnat accept
    		drop
    	}
    	chain guard {
    		type filter hook prerouting priority -300; policy accept;
    		iifname != "lo" ip daddr 127.0.0.0/8 drop
    	}
    }
    "#);
}

#[test]
fn ports_of_both_modes() {
    let network = network(vec![
        port(Tcp, 8080, Ingress, &[("b", 3, 80), ("a", 2, 8000)]),
        port(Tcp, 9090, Ingress, &[]),
        port(Udp, 53, Host, &[("a", 2, 5353)]),
    ]);
    insta::assert_snapshot!(full(&network), @r#"
    add table ip skep
    delete table ip skep
    table ip skep {
    	chain tcp-8080 {
    		meta l4proto tcp dnat ip to numgen inc mod 2 map { 0 : 172.18.0.2 . 8000, 1 : 172.18.0.3 . 80 }
    	}
    	chain tcp-9090 {
    	}
    	chain udp-53 {
    		meta l4proto udp dnat ip to 172.18.0.2:5353
    	}
    	map ports {
    		type inet_proto . inet_service : verdict
    		elements = { tcp . 8080 : goto tcp-8080, tcp . 9090 : goto tcp-9090, udp . 53 : goto udp-53 }
    	}
    	chain dispatch {
    		ip protocol . th dport vmap @ports
    	}
    	chain prerouting {
    		type nat hook prerouting priority -100; policy accept;
    		fib daddr type local jump dispatch
    	}
    	chain output {
    		type nat hook output priority -100; policy accept;
    		fib daddr type local jump dispatch
    	}
    	chain postrouting {
    		type nat hook postrouting priority 100; policy accept;
    		oifname "skep0" ip saddr { 127.0.0.0/8, 172.18.0.0/16 } masquerade
    		oifname != "skep0" ip saddr 172.18.0.0/16 masquerade
    	}
    	chain forward {
    		type filter hook forward priority 0; policy accept;
    		oifname != "skep0" accept
    		ct state established,related accept
    		ct status dnat accept
    		drop
    	}
    	chain guard {
    		type filter hook prerouting priority -300; policy accept;
    		iifname != "lo" ip daddr 127.0.0.0/8 drop
    	}
    }
    "#);
}

#[test]
fn an_update_names_only_the_ports_that_differ() {
    let old = network(vec![
        port(Tcp, 80, Ingress, &[("a", 2, 80)]),
        port(Tcp, 90, Ingress, &[("a", 2, 90)]),
        port(Udp, 53, Host, &[("a", 2, 53)]),
    ]);
    let new = network(vec![
        port(Tcp, 70, Host, &[("b", 3, 70)]),
        port(Tcp, 80, Ingress, &[("a", 2, 80), ("b", 3, 80)]),
        port(Tcp, 90, Ingress, &[("a", 2, 90)]),
    ]);
    insta::assert_snapshot!(update(&NetworkDiff::between(&old, &new)).unwrap(), @r#"
    add chain ip skep tcp-70
    add rule ip skep tcp-70 meta l4proto tcp dnat ip to 172.18.0.3:70
    add element ip skep ports { tcp . 70 : goto tcp-70 }
    flush chain ip skep tcp-80
    add rule ip skep tcp-80 meta l4proto tcp dnat ip to numgen inc mod 2 map { 0 : 172.18.0.2 . 80, 1 : 172.18.0.3 . 80 }
    delete element ip skep ports { udp . 53 }
    flush chain ip skep udp-53
    delete chain ip skep udp-53
    "#);
    assert_eq!(update(&NetworkDiff::between(&new, &new)), None);
}

#[test]
fn removal_works_without_a_table() {
    insta::assert_snapshot!(remove(), @r#"
    add table ip skep
    delete table ip skep
    "#);
}
