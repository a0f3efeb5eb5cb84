package blueprints

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/mambahost/mamba/blueprints/render"
)

// Validate checks what several values must be together, and again what Parse has made sure of
// when b was built in Go. The error is Problems.
func (b *Blueprint) Validate() error { return b.validate(FileName) }

func (b *Blueprint) validate(name string) error {
	v := &validation{b: b, file: name}
	v.variants()
	v.startup("startup", b.Startup, b.StartupShell)
	v.env("env", b.Env)
	v.stopAndReady()
	v.ports()
	v.variables()
	v.files()
	v.install()
	v.outside()
	v.numbers()
	return v.problems.err()
}

type validation struct {
	b        *Blueprint
	file     string
	problems Problems
}

func (v *validation) fault(path, format string, args ...any) {
	at := v.b.positions.find(path)
	v.problems = append(v.problems, Problem{v.file, at.line, at.column, path, fmt.Sprintf(format, args...)})
}

func (v *validation) variants() {
	if len(v.b.Variants) == 0 {
		v.fault("variants", "is missing and required")
	}
	seen := map[string]bool{}
	for i, variant := range v.b.Variants {
		path := fmt.Sprintf("variants[%d]", i)
		if seen[variant.ID] {
			v.fault(path+".id", "%q is given twice", variant.ID)
		}
		seen[variant.ID] = true
		if (variant.Image == "") == (variant.Builtin == "") {
			v.fault(path, "needs exactly one of image and builtin")
		}
		if !variant.Startup.Empty() {
			v.startup(path+".startup", variant.Startup, variant.StartupShell)
		} else if variant.StartupShell {
			v.fault(path+".startup_shell", "is only for a variant with a startup of its own")
		}
		v.env(path+".env", variant.Env)
	}
	if chosen, ok := v.b.Variant(""); !ok && v.b.DefaultVariant != "" {
		v.fault("default_variant", "%q is none of the variants", v.b.DefaultVariant)
	} else if ok && chosen.Hidden {
		v.fault("default_variant", "%q is hidden; customers could not create a server", chosen.ID)
	}
}

func (v *validation) startup(path string, c Command, shell bool) {
	if shell {
		if c.Line == "" {
			v.fault(path, "must be one line of text when startup_shell is true")
		}
		v.template(path, c.Line)
		return
	}
	v.command(path, c)
}

func (v *validation) command(path string, c Command) {
	words, err := c.Words()
	switch {
	case err != nil:
		v.fault(path, "%v", err)
	case len(words) == 0:
		v.fault(path, "is empty; name the program to run")
	}
	for i, word := range words {
		at := path
		if c.Line == "" {
			at = fmt.Sprintf("%s[%d]", path, i)
		}
		v.template(at, word)
	}
}

func (v *validation) template(path, text string) {
	if _, err := v.b.parseTemplate(text); err != nil {
		v.fault(path, "%v", err)
	}
	if strings.ContainsRune(text, 0) {
		v.fault(path, "must not hold a NUL character")
	}
}

func (v *validation) env(path string, env map[string]string) {
	for _, key := range sortedKeys(env) {
		if strings.HasPrefix(key, EnvPrefix) {
			v.fault(join(path, key), "names that start with %s are ours; choose another", EnvPrefix)
		}
		v.template(join(path, key), env[key])
	}
}

func (v *validation) stopAndReady() {
	if (v.b.Stop.Command == "") == (v.b.Stop.Signal == "") {
		v.fault("stop", "needs exactly one of command and signal")
	}
	if v.b.Stop.Command != "" && v.b.Console.Input == "none" {
		v.fault("stop.command", "cannot be typed: console.input is none; use a signal")
	}
	if v.b.Ready.Log != "" && v.b.Ready.TCP != "" {
		v.fault("ready", "takes at most one of log and tcp")
	}
	if name := v.b.Ready.TCP; name != "" {
		v.portOf("ready.tcp", name, "tcp")
	}
}

// portOf checks that a port of that name speaks protocol.
func (v *validation) portOf(path, name, protocol string) {
	p, ok := v.b.Port(name)
	switch {
	case !ok:
		v.fault(path, "%q is none of the ports", name)
	case p.Protocol != protocol && p.Protocol != "both":
		v.fault(path, "port %q is %s; it has to be %s", name, p.Protocol, protocol)
	}
}

func (v *validation) ports() {
	names := map[string]bool{}
	owner := map[string]string{} // "7777/tcp" → the port that has it
	for i, p := range v.b.Ports {
		path := fmt.Sprintf("ports[%d]", i)
		if names[p.Name] {
			v.fault(path+".name", "%q is given twice", p.Name)
		}
		names[p.Name] = true
		if !v.offset(path, p) {
			continue
		}
		first := v.b.containerPort(p)
		if first+p.Count-1 > 65535 {
			v.fault(path, "ends at %d; the last port is 65535", first+p.Count-1)
		}
		for n := range max(p.Count, 1) {
			for _, protocol := range p.protocols() {
				key := fmt.Sprintf("%d/%s", first+n, protocol)
				if first == 0 { // the same as outside, which is not known yet: compare within the group
					key = fmt.Sprintf("%s+%d/%s", cmp.Or(p.OffsetFrom, p.Name), p.Offset+n, protocol)
				}
				if other := owner[key]; other != "" {
					v.fault(path, "takes %s, which port %q has", key, other)
				} else {
					owner[key] = p.Name
				}
			}
		}
	}
}

// offset checks a port that hangs on another. It reports whether its number can be worked out.
func (v *validation) offset(path string, p Port) bool {
	if p.OffsetFrom == "" {
		if p.Offset != 0 {
			v.fault(path+".offset", "needs offset_from: the name of the port it counts from")
		}
		return true
	}
	base, ok := v.b.Port(p.OffsetFrom)
	switch {
	case !ok || base.Name == p.Name:
		v.fault(path+".offset_from", "%q is none of the other ports", p.OffsetFrom)
	case base.OffsetFrom != "":
		v.fault(path+".offset_from", "%q hangs on another port itself; count from %q", p.OffsetFrom, base.OffsetFrom)
	case p.Offset == 0:
		v.fault(path+".offset_from", "needs offset: how far above %q it is", p.OffsetFrom)
	case p.ContainerPort != 0 || p.HostPortHint != 0:
		v.fault(path, "has its number from offset_from; remove container_port and host_port_hint")
	case p.Offset < base.Count && overlap(p, base):
		v.fault(path+".offset", "%d lies within the %d ports of %q", p.Offset, base.Count, base.Name)
	default:
		return true
	}
	return false
}

func overlap(a, b Port) bool {
	return a.Protocol == b.Protocol || a.Protocol == "both" || b.Protocol == "both"
}

func (v *validation) variables() {
	seen := map[string]bool{}
	for i, variable := range v.b.Variables {
		path := fmt.Sprintf("variables[%d]", i)
		if seen[variable.Key] {
			v.fault(path+".key", "%q is given twice", variable.Key)
		}
		seen[variable.Key] = true
		if variable.UserEdit && !variable.UserView {
			if _, said := v.b.positions[path+".user_edit"]; said {
				v.fault(path+".user_edit", "is true, but customers cannot see it; set user_edit: false")
			}
		}
		before := len(v.problems)
		v.rules(path+".rules", variable)
		if len(v.problems) == before {
			v.fallback(path, variable)
		}
	}
}

// rules checks that they fit the type and each other.
func (v *validation) rules(path string, variable Variable) {
	r := variable.Rules
	text := variable.Type == TypeString || variable.Type == TypeSecret
	_, lengthSaid := v.b.positions[path+".max_length"]
	for _, rule := range []struct {
		name     string
		set, fit bool
	}{
		{"accepted", r.Accepted, variable.Type == TypeBool},
		{"min", r.Min != nil, variable.Type == TypeInt},
		{"max", r.Max != nil, variable.Type == TypeInt},
		{"min_length", r.MinLength != 0, text},
		{"max_length", lengthSaid, text},
		{"regex", r.Regex != "", text},
		{"in", len(r.In) > 0, variable.Type == TypeEnum},
	} {
		if rule.set && !rule.fit {
			v.fault(path+"."+rule.name, "is not for type %s", variable.Type)
		}
	}
	if r.Min != nil && r.Max != nil && *r.Min > *r.Max {
		v.fault(path+".min", "%d is above max %d", *r.Min, *r.Max)
	}
	if text && r.MinLength > r.MaxLength {
		v.fault(path+".min_length", "%d is above max_length %d", r.MinLength, r.MaxLength)
	}
	if variable.Type == TypeEnum && len(r.In) == 0 {
		v.fault(path+".in", "is missing: an enum needs the values to choose from")
	}
	seen := map[Scalar]bool{}
	for i, option := range r.In {
		if seen[option.Value] {
			v.fault(fmt.Sprintf("%s.in[%d].value", path, i), "%q is given twice", option.Value)
		}
		seen[option.Value] = true
	}
}

// fallback checks the default against the rules.
func (v *validation) fallback(path string, variable Variable) {
	value := string(variable.Default)
	switch {
	case variable.Type == TypeSecret && value != "":
		v.fault(path+".default", "a secret that is written here is no secret; remove it")
	case value == "" && variable.Rules.Required && !(variable.UserView && variable.UserEdit):
		v.fault(path, "is required, but customers cannot give it; add a default or let them edit it")
	case variable.Rules.Accepted && value == "true":
		v.fault(path+".default", "must not be true: the customer has to accept it")
	case value != "":
		unaccepted := variable
		unaccepted.Rules.Accepted = false
		if message := unaccepted.Check(value); message != "" {
			v.fault(path+".default", "does not pass its own rules: %s", message)
		}
	}
}

func (v *validation) files() {
	seen := map[string]bool{}
	for i, file := range v.b.Files {
		path := fmt.Sprintf("files[%d]", i)
		if seen[file.Path] {
			v.fault(path+".path", "%q is given twice; put all its settings in one", file.Path)
		}
		seen[file.Path] = true
		for _, setting := range file.Set {
			at := join(path+".set", setting.Key)
			if err := render.CheckKey(file.Format, setting.Key); err != nil {
				v.fault(at, "%v", err)
			}
			v.template(at, setting.Template)
		}
	}
}

func (v *validation) install() {
	in := v.b.Install
	if in == nil {
		return
	}
	if in.Image != "" && in.Builtin != "" {
		v.fault("install", "takes at most one of image and builtin")
	}
	if in.Script != "" && in.ScriptFile != "" {
		v.fault("install", "takes at most one of script and script_file")
	}
	v.command("install.entrypoint", in.Entrypoint)
	v.env("install.env", in.Env)
}

// outside checks what others do with the server: query, RCON, console, players.
func (v *validation) outside() {
	switch q := v.b.Query; {
	case q.Protocol == "minecraft":
		v.portOf("query.port", q.Port, "tcp")
	case q.Protocol == "a2s":
		v.portOf("query.port", q.Port, "udp")
	case q.Port != "":
		v.fault("query.port", "is only for a protocol; set query.protocol")
	}
	if r := v.b.RCON; r != nil {
		v.portOf("rcon.port", r.Port, "tcp")
		if variable, ok := v.b.Variable(r.Password); !ok || variable.Type != TypeSecret {
			v.fault("rcon.password", "%q is no variable of type secret", r.Password)
		}
	}
	if v.b.Console.Input == "rcon" && v.b.RCON == nil {
		v.fault("console.input", "is rcon, but rcon is not described")
	}
	for path, expression := range map[string]string{"players.joined": v.b.Players.Joined, "players.left": v.b.Players.Left} {
		if expression == "" {
			continue
		}
		if re, err := regexp.Compile(expression); err != nil || re.SubexpIndex("name") < 0 {
			v.fault(path, "needs a group that takes the player's name: (?P<name>…)")
		}
	}
}

func (v *validation) numbers() {
	for path, hint := range map[string]Hint{
		"resources.cpu_millicores": v.b.Resources.CPUMillicores,
		"resources.memory_mib":     v.b.Resources.MemoryMiB,
		"resources.disk_mib":       v.b.Resources.DiskMiB,
	} {
		if hint.Recommended != 0 && hint.Recommended < hint.Minimum {
			v.fault(path+".recommended", "%d is below the minimum %d", hint.Recommended, hint.Minimum)
		}
	}
	for i, p := range v.b.Resources.Players {
		if i > 0 && (p.Players <= v.b.Resources.Players[i-1].Players || p.MemoryMiB < v.b.Resources.Players[i-1].MemoryMiB) {
			v.fault(fmt.Sprintf("resources.players[%d]", i), "must have more players, and not less memory, than the line before")
		}
	}
	if c := v.b.Crash; c.BackoffMinMS > c.BackoffMaxMS {
		v.fault("crash.backoff_min_ms", "%d is above backoff_max_ms %d", c.BackoffMinMS, c.BackoffMaxMS)
	}
}
