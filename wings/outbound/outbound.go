// Package outbound makes the HTTP requests whose address a customer or a modder can choose: webhooks,
// push endpoints, files fetched by URL.
//
// It owns the decision what such a request may reach. It refuses every address that is not on the public
// internet, whatever name, spelling, answer of a name server or redirect led to it.
//
// Its one invariant: the address that is checked is the address that is dialed. The check sits in the
// dialer's Control, after the only resolution and before the socket connects, so there is nothing in
// between that could change.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of a request, unless its Config says otherwise.
const (
	DefaultTimeout   = 15 * time.Second // from the first lookup to the last byte of the answer
	DefaultMaxBody   = 1 << 20          // bytes of an answer
	DefaultRedirects = 5
)

// Limits that nobody changes.
const (
	connectTimeout = 5 * time.Second
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 64 << 10
	maxURLBytes    = 4096
	maxErrorText   = 300 // bytes of what went wrong; a stranger's server has a say in it
)

// Errors of Do. All other errors are faults of the network or of the other side.
var (
	ErrURL      = errors.New("this URL cannot be used")
	ErrDenied   = errors.New("the address is not on the public internet")
	ErrRedirect = errors.New("too many redirects")
	ErrTooLarge = errors.New("the answer is too large")
)

// Config of New. The zero value is the strictest.
type Config struct {
	Allow     []netip.Prefix // networks that may be reached although they are not public
	Timeout   time.Duration  // of a whole request; 0: DefaultTimeout
	MaxBody   int64          // bytes of an answer; 0: DefaultMaxBody
	Redirects int            // followed at most; 0: DefaultRedirects, negative: none, the answer is the redirect
	Resolver  *net.Resolver  // nil: the machine's

	// dialed is told every address that passed the check, before the socket connects; for tests.
	dialed func(address netip.AddrPort)
}

// Client makes requests. It keeps no cookies, asks no proxy and is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client
}

// New returns a Client.
func New(c Config) *Client {
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MaxBody <= 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Redirects == 0 {
		c.Redirects = DefaultRedirects
	}
	o := &Client{cfg: c}
	dialer := &net.Dialer{Timeout: connectTimeout, Resolver: c.Resolver, ControlContext: o.control}
	o.http = &http.Client{
		Timeout:       c.Timeout,
		CheckRedirect: o.redirect,
		Transport: &http.Transport{
			DialContext:            dialer.DialContext, // Proxy stays nil: the environment's would dial for us, unchecked
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // MaxBody counts what arrives
			MaxIdleConnsPerHost:    2,
			MaxIdleConns:           32,
			IdleConnTimeout:        idleTimeout,
			TLSHandshakeTimeout:    connectTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
	}
	return o
}

// Do makes the request and returns the answer, whose body ends with ErrTooLarge when there is more than
// Config.MaxBody of it and has to be closed. ErrURL, ErrDenied and ErrRedirect are final; no error holds
// the path or the query of a URL, because these are secrets more often than not.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	if err := CheckURL(req.URL); err != nil {
		return nil, err
	}
	if req.Host != "" && req.Host != req.URL.Host {
		return nil, fmt.Errorf("%w: the header Host names another host", ErrURL)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, withoutURL(req, err)
	}
	if res.ContentLength > c.cfg.MaxBody {
		_ = res.Body.Close()
		return nil, fmt.Errorf("%s %s: %w: %d bytes", req.Method, req.URL.Host, ErrTooLarge, res.ContentLength)
	}
	res.Body = &body{ReadCloser: res.Body, left: c.cfg.MaxBody}
	return res, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// failure is an error whose text is ours and whose causes can still be asked for.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

// withoutURL takes the URL out of the error of net/http.
func withoutURL(req *http.Request, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	text := strings.ToValidUTF8(err.Error(), "?")
	if p := req.URL.EscapedPath(); len(p) > 1 {
		text = strings.ReplaceAll(text, p, "/…")
	}
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return &failure{text: req.Method + " " + req.URL.Host + ": " + text, cause: err}
}

// CheckURL is ErrURL for a URL that no request may have, with what is wrong: another scheme than http and
// https, a user and password, no host, a host that is a number in another spelling than four decimal
// parts, characters outside of ASCII in the host, or a port that no web server has. It resolves nothing:
// what it lets pass can still be ErrDenied.
func CheckURL(u *url.URL) error {
	refuse := func(why string) error { return fmt.Errorf("%w: %s", ErrURL, why) }
	switch {
	case u == nil:
		return refuse("it is empty")
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("it has to begin with https:// or http://")
	case u.Opaque != "" || u.Host == "" || u.Hostname() == "":
		return refuse("it names no host")
	case u.User != nil:
		return refuse("it must not hold a user name or a password")
	case len(u.String()) > maxURLBytes:
		return refuse("it is too long")
	}
	if err := checkHost(u.Hostname()); err != "" {
		return refuse(err)
	}
	if !webPort(u.Port()) {
		return refuse("no web server has this port")
	}
	return nil
}

// checkHost says what is wrong with a host; empty: nothing.
func checkHost(host string) string {
	for _, r := range host {
		if r <= ' ' || r > '~' || strings.ContainsRune(`%\/@?#<>"'`+"`{}|^", r) {
			return "its host has characters that no host has; write an international name as xn--…"
		}
	}
	if strings.Contains(host, ":") { // in brackets, or url.Parse had refused it
		if ip, err := netip.ParseAddr(host); err != nil || ip.Zone() != "" {
			return "its host is no IPv6 address"
		}
		return ""
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	last := labels[len(labels)-1]
	if last == "" {
		return "its host has an empty part"
	}
	if numeric(last) { // an IPv4 address to some of the libraries on the way
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is4() {
			return "its host is a number; write an address as four decimal parts"
		}
	}
	return ""
}

// numeric is what the URL standard takes for the end of an IPv4 address (WHATWG URL, "ends in a number").
func numeric(label string) bool {
	if len(label) >= 2 && (label[:2] == "0x" || label[:2] == "0X") {
		return strings.Trim(label[2:], "0123456789abcdefABCDEF") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// otherPorts are above 1023 and no web server's: a request there would be read as another protocol's
// (WHATWG Fetch, "port blocking").
var otherPorts = map[int]bool{
	1719: true, 1720: true, 1723: true, 2049: true, 3659: true, 4045: true, 4190: true, 5060: true, 5061: true, 6000: true,
	6566: true, 6665: true, 6666: true, 6667: true, 6668: true, 6669: true, 6679: true, 6697: true, 10080: true,
}

func webPort(port string) bool {
	if port == "" {
		return true
	}
	if strings.Trim(port, "0123456789") != "" {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && (n == 80 || n == 443 || n >= 1024 && n <= 65535 && !otherPorts[n])
}

// redirect decides whether a redirect is followed. The connection that it asks for is checked as the first was.
func (c *Client) redirect(req *http.Request, via []*http.Request) error {
	if c.cfg.Redirects < 0 {
		return http.ErrUseLastResponse
	}
	if len(via) > c.cfg.Redirects {
		return ErrRedirect
	}
	req.Header.Del("Referer") // it holds the URL before
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w: a redirect from https to %s", ErrURL, req.URL.Scheme)
	}
	return CheckURL(req.URL)
}

// control is called with every address that is about to be dialed, and the only place that lets one pass.
func (c *Client) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return fmt.Errorf("%w: %s %s", ErrDenied, network, address)
	}
	if !c.allowed(at.Addr()) {
		return ErrDenied // without the address: what a name means inside is nobody's business outside
	}
	if c.cfg.dialed != nil {
		c.cfg.dialed(at)
	}
	return nil
}

func (c *Client) allowed(ip netip.Addr) bool {
	plain := ip.Unmap().WithZone("")
	for _, p := range c.cfg.Allow {
		if p.Contains(plain) {
			return true
		}
	}
	return Public(ip) && !ownAddress(plain)
}

// ownAddress reports whether this machine has the address: a connection to it does not pass the firewall
// that keeps strangers out. A machine that cannot tell its addresses reaches nothing.
func ownAddress(ip netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap().WithZone("") == ip {
			return true
		}
	}
	return false
}

// body ends an answer that is too large with an error.
type body struct {
	io.ReadCloser
	left int64 // bytes; owned by the reader
}

func (b *body) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more tells whether there is more
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, ErrTooLarge
	}
	return n, err
}

// ParseAllow reads a list of networks and addresses, "10.1.2.0/24, fd00:1::/64, 192.0.2.7".
func ParseAllow(list string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			ip, err := netip.ParseAddr(part)
			if err != nil || ip.Zone() != "" {
				return nil, fmt.Errorf("%q is no network and no address", part)
			}
			p = netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
