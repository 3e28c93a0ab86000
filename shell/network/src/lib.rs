//! Makes the kernel match a dataplane: netlink, namespaces, nftables.
