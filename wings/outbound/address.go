package outbound

import "net/netip"

// denied are the IPv4 networks that are not the public internet: the IANA registry of special purpose
// addresses (RFC 6890 and its updates), multicast, what is reserved, and the one public address at which
// a cloud answers its machines' questions about themselves.
var denied = prefixes(
	"0.0.0.0/8",        // this network; 0.0.0.0 dials this machine
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carriers' own; also 100.100.100.200, the metadata of Alibaba Cloud
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // Azure's wire server
	"169.254.0.0/16",   // link-local; also 169.254.169.254, the metadata of the other clouds
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments; also 192.0.0.192, the metadata of Oracle Cloud
	"192.0.2.0/24",     // documentation
	"192.31.196.0/24",  // AS112
	"192.52.193.0/24",  // AMT
	"192.88.99.0/24",   // 6to4 relays, given up
	"192.168.0.0/16",   // private
	"192.175.48.0/24",  // AS112
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved; also the broadcast
)

// Of IPv6 only the global unicast block may be reached, less these parts of it. That leaves out ::1, ::,
// fc00::/7, fe80::/10, fec0::/10, ff00::/8, ::/96, 100::/64, 5f00::/16, 64:ff9b:1::/48 and whatever is
// handed out later.
var (
	global6 = netip.MustParsePrefix("2000::/3")
	denied6 = prefixes(
		"2001::/23",     // protocol assignments: Teredo, which holds an IPv4 address, ORCHID, AMT
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4, which holds an IPv4 address
		"2620:4f:8000::/48",
		"3fff::/20", // documentation
	)
	nat64 = netip.MustParsePrefix("64:ff9b::/96") // the last four bytes are an IPv4 address
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func within(ip netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// Public reports whether an address is on the public internet. An IPv4 address that an IPv6 one holds
// (mapped, NAT64, ISATAP) is judged in its place.
func Public(ip netip.Addr) bool {
	if !ip.IsValid() || ip.Zone() != "" {
		return false
	}
	ip = ip.Unmap()
	if ip.Is4() {
		return !within(ip, denied)
	}
	raw := ip.As16()
	inner := netip.AddrFrom4([4]byte(raw[12:]))
	if nat64.Contains(ip) {
		return Public(inner)
	}
	if isatap := (raw[8] == 0 || raw[8] == 2) && raw[9] == 0 && raw[10] == 0x5e && raw[11] == 0xfe; isatap && !Public(inner) {
		return false
	}
	return global6.Contains(ip) && !within(ip, denied6)
}
