package blueprints

import (
	"fmt"
	"strings"
)

// template is an author's text, cut once into what is literal and what is asked for. Values are put
// beside the literals and never looked at again.
type template []part

type part struct {
	text string
	ref  string // e.g. "var.MOTD"; empty: text is literal
}

// serverRefs are the placeholders that are not of a variable or a port.
var serverRefs = []string{
	"server.id",             // 15 characters
	"server.name",           // as the customer named it, one line
	"server.ip",             // the address that players connect to
	"server.memory_mib",     // the limit
	"server.cpu_millicores", // the limit
	"server.disk_mib",       // the limit
}

// parseTemplate cuts text at its placeholders. Each has to be one that the blueprint can fill.
func (b *Blueprint) parseTemplate(text string) (template, error) {
	var t template
	for rest := text; rest != ""; {
		before, after, found := strings.Cut(rest, "{{")
		if before != "" {
			t = append(t, part{text: before})
		}
		if !found {
			break
		}
		ref, tail, closed := strings.Cut(after, "}}")
		if !closed {
			return nil, fmt.Errorf("has {{ without }}")
		}
		ref = strings.TrimSpace(ref)
		if err := b.checkRef(ref); err != nil {
			return nil, err
		}
		t = append(t, part{ref: ref})
		rest = tail
	}
	return t, nil
}

func (b *Blueprint) checkRef(ref string) error {
	kind, name, _ := strings.Cut(ref, ".")
	switch {
	case kind == "var":
		if _, ok := b.Variable(name); !ok {
			return fmt.Errorf("{{%s}} names a variable that is not in variables", ref)
		}
	case kind == "port":
		if _, ok := b.Port(strings.TrimSuffix(name, ".host")); !ok {
			return fmt.Errorf("{{%s}} names a port that is not in ports", ref)
		}
	case !contains(serverRefs, ref):
		return fmt.Errorf("{{%s}} is no placeholder; known are var.KEY, port.NAME, port.NAME.host, %s", ref, strings.Join(serverRefs, ", "))
	}
	return nil
}

// single returns the reference when the template is one placeholder and nothing else.
func (t template) single() (string, bool) {
	if len(t) == 1 && t[0].ref != "" {
		return t[0].ref, true
	}
	return "", false
}

// fill puts values in. Every reference has a value: parseTemplate has seen to it.
func (t template) fill(values map[string]string) string {
	var out strings.Builder
	for _, p := range t {
		if p.ref != "" {
			out.WriteString(values[p.ref])
		} else {
			out.WriteString(p.text)
		}
	}
	return out.String()
}

// EnvPrefix begins the names of environment variables that are ours.
const EnvPrefix = "MAMBA_"

// shell turns the template into a script that reads its values from the environment, so that no
// value becomes program text. It returns the environment that the script needs.
func (t template) shell(values map[string]string) (script string, env map[string]string) {
	var out strings.Builder
	env, names := map[string]string{}, map[string]string{}
	for _, p := range t {
		if p.ref == "" {
			out.WriteString(p.text)
			continue
		}
		if names[p.ref] == "" {
			names[p.ref] = fmt.Sprintf("%sARG_%d", EnvPrefix, len(names)+1)
			env[names[p.ref]] = values[p.ref]
		}
		out.WriteString("${" + names[p.ref] + "}")
	}
	return out.String(), env
}
