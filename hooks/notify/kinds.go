package notify

import (
	"fmt"
	"slices"
	"strings"
	"text/template"
)

// Severities.
const (
	info     = "info"     // worth knowing
	warning  = "warning"  // look at it soon
	critical = "critical" // look at it now
)

// audience is who is told of an event.
type audience int

const (
	members   audience = iota // of the event's tenant who hold kind.Permission (all of them if it is empty), and the tenant's webhooks
	concerned                 // the one account that the event is about
	operators                 // superusers
)

// kind is one thing that people can be told of. Subject and Body are templates over facts.
type kind struct {
	Name       string // what preferences and notices call it
	Group      string // under which it is shown: servers, organisation, security, operation
	Title      string // what a person switches on and off
	Event      string // kind of the event
	When       func(p map[string]any) bool
	To         audience
	Permission string   // of members; and of the concerned one, if it has to be his still when he is told
	On         []string // channels that are on unless somebody says otherwise
	Severity   string
	Security   bool // app and email cannot be switched off, and a burst is not gathered
	OwnToo     bool // who caused it is told, too
	Subject    string
	Body       string
	Link       string // path in the web app; a template

	subject, body, link *template.Template // set by mustParse
}

// facts are what templates may say. All texts in them are clean: one line, no control characters.
type facts struct {
	App      string
	Server   string // name
	ServerID string
	Tenant   string // name
	TenantID string
	Subject  string         // name of the account or node that the event is about
	Actor    string         // name of who caused it; empty: the system
	P        map[string]any // the event's payload: texts, numbers and yes or no
}

var (
	everywhere = []string{App, Email, Discord, Push}
	quietly    = []string{App}
	usually    = []string{App, Discord}
)

const (
	serverLink  = "/o/{{.TenantID}}/servers/{{.ServerID}}"
	membersLink = "/o/{{.TenantID}}/settings/members"
	dangerLink  = "/o/{{.TenantID}}/settings/danger"
	orgLink     = "/o/{{.TenantID}}/servers"
	accountLink = "/account"
)

func phase(to ...string) func(map[string]any) bool {
	return func(p map[string]any) bool { s, _ := p["to"].(string); return slices.Contains(to, s) }
}

func flag(name string, want bool) func(map[string]any) bool {
	return func(p map[string]any) bool { b, _ := p[name].(bool); return b == want }
}

// kinds is everything that people are told of. Payloads may hold more than is said here; what is not
// named in a template reaches nobody.
var kinds = []*kind{
	{Name: "server.installed", Group: "servers", Title: "A server is installed", Event: "server.installed", Permission: "server.read", On: usually, Severity: info, OwnToo: true,
		Subject: "{{.Server}} is installed", Body: "The server {{.Server}} of {{.Tenant}} is installed.", Link: serverLink},
	{Name: "server.install_failed", Group: "servers", Title: "An installation failed", Event: "server.install_failed", Permission: "server.read", On: everywhere, Severity: warning, OwnToo: true,
		Subject: "{{.Server}} could not be installed", Body: "The installation of {{.Server}} of {{.Tenant}} ended with an error{{if .P.timed_out}}: it took too long{{end}}. Its log says what went wrong.", Link: serverLink},
	{Name: "server.crashed", Group: "servers", Title: "A server crashed and is started again", Event: "server.crashed", When: flag("given_up", false), Permission: "server.read", On: usually, Severity: warning,
		Subject: "{{.Server}} crashed", Body: "{{.Server}} of {{.Tenant}} ended by itself{{if .P.out_of_memory}} because it had no memory left{{end}} (exit code {{.P.exit_code}}). It is being started again.", Link: serverLink},
	{Name: "server.failed", Group: "servers", Title: "A server crashed too often and stays off", Event: "server.crashed", When: flag("given_up", true), Permission: "server.read", On: everywhere, Severity: critical,
		Subject: "{{.Server}} keeps crashing and stays off", Body: "{{.Server}} of {{.Tenant}} crashed {{.P.attempt}} times in a row{{if .P.out_of_memory}}, the last time because it had no memory left{{end}}. It stays off until somebody starts it.", Link: serverLink},
	{Name: "server.unreachable", Group: "servers", Title: "A server is out of reach", Event: "server.phase_changed", When: phase("UNREACHABLE"), Permission: "server.read", On: usually, Severity: warning,
		Subject: "{{.Server}} is out of reach", Body: "The machine that {{.Server}} of {{.Tenant}} runs on does not answer. The game may well be running; it cannot be managed until the machine is back.", Link: serverLink},
	{Name: "server.state", Group: "servers", Title: "A server starts or stops", Event: "server.phase_changed", When: phase("RUNNING", "STOPPED"), Permission: "server.read", On: nil, Severity: info, OwnToo: true,
		Subject: `{{.Server}} is {{if eq .P.to "RUNNING"}}running{{else}}off{{end}}`, Body: `{{.Server}} of {{.Tenant}} is {{if eq .P.to "RUNNING"}}running{{else}}off{{end}} now.`, Link: serverLink},
	{Name: "server.deleted", Group: "servers", Title: "Somebody deletes a server", Event: "server.delete", Permission: "server.read", On: usually, Severity: warning,
		Subject: "{{.Server}} is being deleted", Body: "{{.Actor}} is deleting the server {{.Server}} of {{.Tenant}} with all its data.", Link: orgLink},

	{Name: "member.joined", Group: "organisation", Title: "An invitation is accepted", Event: "member.joined", Permission: "member.invite", On: usually, Severity: info,
		Subject: "{{.Actor}} joined {{.Tenant}}", Body: "{{.Actor}} has accepted the invitation to {{.Tenant}}.", Link: membersLink},
	{Name: "member.role_changed", Group: "organisation", Title: "Your role changes", Event: "member.updated", To: concerned, On: []string{App, Email}, Severity: info,
		Subject: "Your role in {{.Tenant}} was changed", Body: "{{.Actor}} has changed what you may do in {{.Tenant}}.", Link: orgLink},
	{Name: "member.removed", Group: "organisation", Title: "You are removed from an organisation", Event: "member.removed", To: concerned, On: []string{App, Email}, Severity: warning,
		Subject: "You are no longer a member of {{.Tenant}}", Body: "{{.Actor}} has removed you from {{.Tenant}}.", Link: "/"},
	{Name: "tenant.transferred", Group: "organisation", Title: "The ownership changes", Event: "tenant.transferred", Permission: "tenant.read", On: everywhere, Severity: warning, OwnToo: true,
		Subject: "{{.Tenant}} has a new owner", Body: "{{.Actor}} has handed {{.Tenant}} over to {{.Subject}}.", Link: membersLink},
	{Name: "tenant.deleting", Group: "organisation", Title: "The organisation is to be deleted", Event: "tenant.deleting", On: everywhere, Severity: critical, OwnToo: true,
		Subject: "{{.Tenant}} is going to be deleted", Body: "{{.Actor}} has asked to delete {{.Tenant}}. Its servers are stopped. On {{.P.day}} (UTC) all of it is removed for ever; until then its owner can keep it.", Link: orgLink},
	{Name: "tenant.kept", Group: "organisation", Title: "The organisation is kept after all", Event: "tenant.kept", On: everywhere, Severity: info, OwnToo: true,
		Subject: "{{.Tenant}} is kept", Body: "{{.Actor}} has decided to keep {{.Tenant}}. What ran before is started again.", Link: orgLink},
	{Name: "tenant.export_ready", Group: "organisation", Title: "An archive that you asked for is ready", Event: "tenant.export_ready", To: concerned, Permission: "tenant.export", On: []string{App, Email}, Severity: info, OwnToo: true,
		Subject: "The archive of {{.Tenant}} is ready", Body: "The archive of all data of {{.Tenant}} can be downloaded for seven days.", Link: dangerLink},
	{Name: "tenant.quota_near", Group: "organisation", Title: "The quota is nearly used", Event: "tenant.quota_near", Permission: "server.create", On: []string{App, Email, Discord}, Severity: warning, OwnToo: true,
		Subject: "{{.Tenant}} has used {{.P.percent}} % of its {{.P.resource}}", Body: "{{.Tenant}} uses {{.P.used}} of {{.P.limit}} {{.P.resource}}. Once all is used, no server can be created or made larger.", Link: orgLink},
	{Name: "tenant.key_made", Group: "organisation", Title: "An API key of the organisation is made", Event: "tenant.key_made", Permission: "audit.read", On: []string{App, Email}, Severity: warning, OwnToo: true,
		Subject: "A new API key for {{.Tenant}}", Body: "{{.Actor}} has made an API key{{with .P.name}} named {{.}}{{end}} for {{$.Tenant}}. If that was not meant to happen, revoke it.", Link: orgLink},

	account("account.new_sign_in", "A sign-in from a new place", "New sign-in to your account", "Your account was used from {{.P.address}}, with a device or network that it was not used from before ({{.P.device}}). If that was not you, end that session and choose a new password."),
	account("account.refresh_reused", "A session was ended because its key came twice", "One of your sessions was ended", "A key that had been used up came again{{with .P.address}} from {{.}}{{end}}, so somebody else may have a copy. The session was ended. If you did not do this yourself, choose a new password."),
	account("account.password_changed", "The password changes", "Your password was changed", "The password of your account was changed, and all other sessions were ended. If that was not you, ask for a new password at once."),
	account("account.email_changed", "The address changes", "Your e-mail address was changed", "The e-mail address of your account was changed, and all other sessions were ended. If that was not you, somebody else has your account: tell whoever runs {{.App}}."),
	account("account.mfa_enabled", "Two-factor sign-in is switched on", "Two-factor sign-in is on", "Signing in to your account now needs a code as well."),
	account("account.mfa_disabled", "Two-factor sign-in is switched off", "Two-factor sign-in is off", "Signing in to your account no longer needs a code. If that was not you, choose a new password and switch it on again."),
	account("account.backup_code_used", "A backup code is used", "A backup code was used", "Somebody signed in to your account with one of its backup codes{{with .P.left}}; {{.}} are left{{end}}. If that was not you, choose a new password."),
	account("account.backup_codes_renewed", "New backup codes are made", "New backup codes were made", "New backup codes were made for your account; those from before are void. If that was not you, choose a new password and make new ones."),
	unlessFirst(account("account.totp_enabled", "An authenticator is added", "An authenticator was added", "An authenticator app can now sign in to your account beside your passkeys. If that was not you, remove it and choose a new password.")),
	account("account.totp_disabled", "The authenticator is removed", "The authenticator was removed", "The authenticator app can no longer sign in to your account. If that was not you, choose a new password and add it again."),
	unlessFirst(account("account.passkey_added", "A passkey is added", "A passkey was added", "A passkey{{with .P.name}} named {{.}}{{end}} can now sign in to your account. If that was not you, remove it and choose a new password.")),
	account("account.passkey_removed", "A passkey is removed", "A passkey was removed", "A passkey{{with .P.name}} named {{.}}{{end}} can no longer sign in to your account."),
	account("account.passkey_cloned", "A passkey seems to be copied", "A passkey was refused", "The passkey{{with .P.name}} named {{.}}{{end}} counts its uses otherwise than it should, so somebody may have a copy. It was refused. Remove it, and choose a new password if you do not know why."),
	account("account.key_made", "A personal API key is made", "A new API key for your account", "An API key{{with .P.name}} named {{.}}{{end}} was made for your account. If that was not you, revoke it and choose a new password."),

	{Name: "node.incident", Group: "operation", Title: "Something is wrong that customers notice", Event: "incident.opened", When: severe(true), To: operators, On: everywhere, Severity: critical, OwnToo: true,
		Subject: "{{.P.title}}", Body: "{{.P.title}}. {{.P.detail}}", Link: "/_/"},
	{Name: "operation.incident", Group: "operation", Title: "Something needs a look", Event: "incident.opened", When: severe(false), To: operators, On: quietly, Severity: warning, OwnToo: true,
		Subject: "{{.P.title}}", Body: "{{.P.title}}. {{.P.detail}}", Link: "/_/"},
	{Name: "node.online", Group: "operation", Title: "A node is back", Event: "node.online", To: operators, On: quietly, Severity: info, OwnToo: true,
		Subject: "Node {{.P.name}} is back", Body: "The node {{.P.name}} answers again.", Link: "/_/"},
}

// account is a notice about the safety of an account, to whoever owns it.
func account(event, title, subject, body string) *kind {
	return &kind{Name: event, Group: "security", Title: title, Event: event, To: concerned, On: []string{App, Email, Push}, Severity: warning, Security: true, OwnToo: true,
		Subject: subject, Body: body, Link: accountLink}
}

// unlessFirst is for what switches two-factor sign-in on with the first: that is told already.
func unlessFirst(k *kind) *kind {
	k.When = flag("first", false)
	return k
}

func severe(want bool) func(map[string]any) bool {
	return func(p map[string]any) bool { s, _ := p["severity"].(string); return (s == critical) == want }
}

// kindOf finds a kind by its name; nil for one that is not known (any more).
func kindOf(name string) *kind {
	i := slices.IndexFunc(kinds, func(k *kind) bool { return k.Name == name })
	if i < 0 {
		return nil
	}
	return kinds[i]
}

// locked reports whether a channel of a kind cannot be switched off.
func (k *kind) locked(channel string) bool { return k.Security && (channel == App || channel == Email) }

// offered reports whether an account can have a kind at all.
func (k *kind) offered(account string) bool { return (k.To == operators) == (account == forOperator) }

// mustParse parses the templates of a kind once; a fault in one is ours.
func (k *kind) mustParse() {
	parse := func(text string) *template.Template {
		return template.Must(template.New(k.Name).Option("missingkey=zero").Parse(text))
	}
	if k.subject == nil {
		k.subject, k.body, k.link = parse(k.Subject), parse(k.Body), parse(k.Link)
	}
}

// write fills in the templates.
func (k *kind) write(f facts) (subject, body, link string, err error) {
	var out [3]string
	for i, t := range []*template.Template{k.subject, k.body, k.link} {
		var b strings.Builder
		if err := t.Execute(&b, f); err != nil {
			return "", "", "", fmt.Errorf("write the notice %s: %w", k.Name, err)
		}
		out[i] = strings.ReplaceAll(b.String(), "<no value>", "?")
	}
	return clean(out[0], maxSubject), clean(out[1], maxBody), out[2], nil
}
