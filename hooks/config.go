package hooks

import (
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Config of the panel. Flags fills it from the command line and the environment.
type Config struct {
	Version       string
	PublicURL     string    // as browsers see the panel, e.g. https://panel.example; empty: http:// and the listen address
	NodeListen    string    // address of the node listener
	NodePublic    string    // host:port that nodes dial; empty: host of PublicURL and port of NodeListen
	MasterKeyFile string    // empty: master.key beside the data folder
	LocalNode     bool      // enrol this machine and run its node daemon as a child process
	NodeName      string    // of the local node
	NodeAddress   string    // address that players of the local node use
	NodePorts     string    // ports of the local node, "25565-25600,27015"
	Demo          bool      // seed the demo
	DemoMail      string    // URL of a page that shows the demo's mails; for what is printed
	HTTPAddress   string    // as `serve --http` was told; for what is printed
	SMTP          string    // host:port; empty: as set in the dashboard
	SamplesFile   string    // empty: samples.db beside the data folder
	SamplesDays   int       // how long samples are kept
	database      *database // which one the collections are on; nil: SQLite
	BreakGlass    bool      // schema edits, imports, SQL and restores through the dashboard are allowed

	OutboundAllow string // networks that customers' webhooks may reach although they are not public, "10.1.2.0/24, fd00:1::/64"
	WebhookHosts  string // hosts that customers' webhooks may name beside Discord's, "chat.example, 10.1.2.3:8080"

	GraceDays int // how long an organisation that is to be deleted can still be kept; 0: the default

	TokenPace   int // requests a minute of one token; 0: the default, negative: no limit
	AddressPace int // the same of one network without a token

	mailPatience time.Duration  // of one mail; 0: mailPatience
	mailRoots    *x509.CertPool // that mail servers are trusted by; nil: the machine's

	Web     http.Handler // the customer's web app
	Log     *slog.Logger // nil: text on standard error
	Started func()       // called once all of the panel runs; nil: nothing
}

// Flags registers the panel's own flags and returns the Config they fill. The default of each comes
// from the environment variable named in its help.
func Flags(f *pflag.FlagSet, version string) *Config {
	c := &Config{Version: version, database: &database{}}
	text := func(p *string, name, env, unset, help string) {
		if v := os.Getenv(env); v != "" {
			unset = v
		}
		f.StringVar(p, name, unset, help+" ("+env+")")
	}
	text(&c.database.url, "db", "MAMBA_DB", "", "postgres:// URL of the database; default: SQLite in the data folder")
	text(&c.PublicURL, "public-url", "MAMBA_PUBLIC_URL", "", "URL under which browsers reach the panel")
	text(&c.NodeListen, "node-listen", "MAMBA_NODE_LISTEN", ":8443", "address of the node listener")
	text(&c.NodePublic, "node-public", "MAMBA_NODE_PUBLIC", "", "host:port that nodes dial; default: host of the public URL and port of the node listener")
	text(&c.MasterKeyFile, "master-key-file", "MAMBA_MASTER_KEY_FILE", "", "file of the master key; default: master.key beside the data folder")
	text(&c.NodeName, "node-name", "MAMBA_NODE_NAME", "us-east-1", "name of the local node")
	text(&c.NodeAddress, "node-address", "MAMBA_NODE_ADDRESS", "127.0.0.1", "address that players of the local node use")
	text(&c.NodePorts, "node-ports", "MAMBA_NODE_PORTS", "25565-25664", "ports of the local node")
	text(&c.SMTP, "smtp", "MAMBA_SMTP", "", "SMTP server host:port for mails; default: as set in the dashboard")
	text(&c.DemoMail, "demo-mail", "MAMBA_DEMO_MAIL", "", "URL of a page that shows the mails of --smtp; the demo prints it")
	text(&c.SamplesFile, "samples-file", "MAMBA_SAMPLES_FILE", "", "file of the samples; default: samples.db beside the data folder")
	text(&c.OutboundAllow, "outbound-allow", "MAMBA_OUTBOUND_ALLOW", "", "networks that requests to customers' addresses may reach although they are not public, with commas between")
	text(&c.WebhookHosts, "webhook-hosts", "MAMBA_WEBHOOK_HOSTS", "", "hosts that customers' webhooks may name beside Discord's, with commas between")
	f.IntVar(&c.SamplesDays, "samples-days", days("MAMBA_SAMPLES_DAYS", defaultSamplesDays), "days that samples are kept, at least 2 (MAMBA_SAMPLES_DAYS)")
	f.IntVar(&c.GraceDays, "delete-grace-days", days("MAMBA_DELETE_GRACE_DAYS", defaultGraceDays), "days that an organisation which is to be deleted can still be kept, at least 1 (MAMBA_DELETE_GRACE_DAYS)")
	f.BoolVar(&c.LocalNode, "local-node", truthy("MAMBA_LOCAL_NODE"), "run the node daemon of this machine as a child process (MAMBA_LOCAL_NODE)")
	f.BoolVar(&c.Demo, "demo", truthy("MAMBA_DEMO"), "seed the demo once (MAMBA_DEMO)")
	f.IntVar(&c.TokenPace, "token-pace", number("MAMBA_TOKEN_PACE"), "requests a minute that one token may make; 0: 6000, -1: no limit (MAMBA_TOKEN_PACE)")
	f.IntVar(&c.AddressPace, "address-pace", number("MAMBA_ADDRESS_PACE"), "requests a minute that one network may make without a token; 0: 3000, -1: no limit (MAMBA_ADDRESS_PACE)")
	c.BreakGlass = truthy("MAMBA_BREAK_GLASS")
	return c
}

// defaultSamplesDays is metering.DefaultRetention.
const defaultSamplesDays = 7

// defaultGraceDays is tenancy.DefaultGrace.
const defaultGraceDays = 30

// number of an environment variable; 0 for what is no number.
func number(env string) int {
	n, err := strconv.Atoi(os.Getenv(env))
	if err != nil {
		return 0
	}
	return n
}

// days of an environment variable. What is no number is refused later, as too few.
func days(env string, unset int) int {
	v := os.Getenv(env)
	if v == "" {
		return unset
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return -1
	}
	return n
}

func truthy(env string) bool {
	v, err := strconv.ParseBool(os.Getenv(env))
	return err == nil && v
}

// publicURL of the panel without a trailing slash.
func (c *Config) publicURL(listen string) string {
	if c.PublicURL != "" {
		return strings.TrimRight(c.PublicURL, "/")
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "http://" + listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// nodePublic is what a join command names.
func (c *Config) nodePublic(publicURL string) string {
	if c.NodePublic != "" {
		return c.NodePublic
	}
	_, port, err := net.SplitHostPort(c.NodeListen)
	if err != nil {
		return c.NodeListen
	}
	host := "127.0.0.1"
	if u, err := url.Parse(publicURL); err == nil && u.Hostname() != "" {
		host = u.Hostname()
	}
	if port == "0" {
		return host // fleet knows the port that it was given
	}
	return net.JoinHostPort(host, port)
}

// dataFile returns a path beside the data folder, where a dashboard restore of the data folder does
// not reach.
func dataFile(dataDir, name string) string {
	return filepath.Join(filepath.Dir(filepath.Clean(dataDir)), name)
}
