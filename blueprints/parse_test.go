package blueprints

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

// small is a blueprint with one of everything that the cases below break.
const small = `schema: 1
id: my-game
name: My game
version: 1.0.0
summary: A game.
variants:
  - id: one
    name: One
    image: docker.io/library/debian:12-slim
startup: ./server --name "{{var.NAME}}" --port {{port.game}}
stop:
  signal: SIGTERM
ports:
  - name: game
    protocol: both
    container_port: 7000
  - name: query
    protocol: udp
    offset_from: game
    offset: 1
variables:
  - key: NAME
    name: Name
    type: string
    default: x
  - key: SLOTS
    name: Slots
    type: int
    default: 5
    rules: {min: 1, max: 10}
  - key: MODE
    name: Mode
    type: enum
    default: a
    rules:
      in:
        - {value: a}
        - {value: b, label: B}
  - key: SECRET
    name: Secret
    type: secret
files:
  - path: cfg/server.json
    format: json
    set:
      name: "{{var.NAME}}"
      slots: "{{var.SLOTS}}"
      text: "{{var.NAME}}!"
      level: 5
      on: true
      port: "{{port.game}}"
install:
  entrypoint: [sh, -e]
  script: echo hi
  env: {SLOTS: "{{var.SLOTS}}"}
`

func TestParseFillsInDefaults(t *testing.T) {
	t.Parallel()
	b, err := Parse([]byte(small), FileName)
	if err != nil {
		t.Fatal(err)
	}
	if b.WorkDir != "/home/container" || b.Stop.TimeoutS != 30 || b.Ready.TimeoutS != 300 || b.Crash.MaxAttempts != 5 || b.Console.Input != "stdin" || b.Query.Protocol != "none" {
		t.Errorf("defaults are missing: %+v", b)
	}
	if v := b.Variables[0]; !v.UserView || !v.UserEdit || v.Group != "basic" || v.Rules.MaxLength != 256 {
		t.Errorf("a variable's defaults are missing: %+v", v)
	}
	if got := b.SecretKeys(); len(got) != 1 || got[0] != "SECRET" {
		t.Errorf("secret keys are %v", got)
	}
}

// TestParseSaysWhatIsWrong changes one thing of a good blueprint and expects one sentence, at its place.
func TestParseSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, want string }{
		"a protocol that is none":                {"protocol: both", "protocol: tpc", `blueprint.yaml:15:15: ports[0].protocol: "tpc" is none of tcp, udp, both`},
		"an unknown field":                       {"    protocol: both", "    protocoll: both", `15:5: ports[0].protocoll: is not a field; known here: container_port, count,`},
		"a number where text is needed":          {"version: 1.0.0", "version: 1.0", `4:10: version: must be text; put quotes round it: "1.0"`},
		"text where a number is needed":          {"container_port: 7000", "container_port: many", `16:21: ports[0].container_port: must be a whole number, not "many"`},
		"a number out of range":                  {"container_port: 7000", "container_port: 70000", `70000 is not between 1 and 65535`},
		"a list where a mapping is needed":       {"stop:\n  signal: SIGTERM", "stop: [SIGTERM]", `stop: must be a mapping (key: value), not a list`},
		"a mapping where a list is needed":       {"ports:\n  - name: game\n    protocol: both\n    container_port: 7000\n  - name: query\n    protocol: udp\n    offset_from: game\n    offset: 1\n", "ports: {game: 1}\n", `ports: must be a list`},
		"a field twice":                          {"id: my-game\n", "id: my-game\nid: other\n", `3:1: id: is given twice; the first is in line 2`},
		"a field without a value":                {"name: My game", "name:", `3:1: name: has no value`},
		"a required field that is missing":       {"summary: A game.\n", "", `1:1: summary: is missing and required`},
		"a bad slug":                             {"id: my-game", "id: My_Game", `2:5: id: "My_Game" must be small letters`},
		"a name with a tag in it":                {"name: My game", "name: <img onerror=alert(1)>", `must be one line of text without < and >`},
		"a name with hidden characters":          {"name: My game", "name: \"a\\u202Eb\"", `invisible`},
		"a version that is none":                 {"version: 1.0.0", "version: v1", `must be a version such as "1.0.0"`},
		"an alias":                               {"summary: A game.", "summary: &a A game.", `anchors and aliases`},
		"a schema of the future":                 {"schema: 1", "schema: 2", `schema: 2 is not between 1 and 1`},
		"an image that is none":                  {"debian:12-slim", "Debian 12", `must be an image reference`},
		"a command that cannot be split":         {`--port {{port.game}}`, `--port "`, `startup: cannot be split into arguments`},
		"an empty command":                       {`startup: ./server --name "{{var.NAME}}" --port {{port.game}}`, `startup: []`, `startup: is empty`},
		"a variable that does not exist":         {"{{var.NAME}}\" --port", "{{var.NOPE}}\" --port", `startup: {{var.NOPE}} names a variable that is not in variables`},
		"a port that does not exist":             {"--port {{port.game}}", "--port {{port.gaem}}", `{{port.gaem}} names a port`},
		"a placeholder that is none":             {"--port {{port.game}}", "--port {{config.token}}", `{{config.token}} is no placeholder; known are var.KEY`},
		"a placeholder without an end":           {`text: "{{var.NAME}}!"`, `text: "{{var.NAME"`, `files[0].set.text: has {{ without }}`},
		"a default that breaks its rules":        {"default: 5", "default: 50", `29:14: variables[1].default: does not pass its own rules: Slots must be between 1 and 10.`},
		"a default that is none of the options":  {"default: a", "default: c", `Mode must be one of: a, B.`},
		"rules of another type":                  {"rules: {min: 1, max: 10}", "rules: {min: 1, regex: x}", `variables[1].rules.regex: is not for type int`},
		"a regular expression that does not do":  {"default: x", "default: x\n    rules: {regex: '(?=a)'}", `is not a regular expression`},
		"min above max":                          {"{min: 1, max: 10}", "{min: 11, max: 10}", `11 is above max 10`},
		"an enum without values":                 {"    rules:\n      in:\n        - {value: a}\n        - {value: b, label: B}\n", "", `variables[2].rules.in: is missing`},
		"an option twice":                        {"{value: b, label: B}", "{value: a, label: B}", `variables[2].rules.in[1].value: "a" is given twice`},
		"a secret that is written down":          {"    type: secret", "    type: secret\n    default: hunter2", `a secret that is written here is no secret`},
		"a variable twice":                       {"key: SLOTS", "key: NAME", `variables[1].key: "NAME" is given twice`},
		"a required variable nobody can give":    {"    type: secret", "    type: secret\n    user_edit: false\n    rules: {required: true}", `customers cannot give it`},
		"hidden, yet editable":                   {"    type: secret", "    type: secret\n    user_view: false\n    user_edit: true", `customers cannot see it`},
		"accepted without being asked":           {"    type: secret", "    type: bool\n    default: true\n    rules: {accepted: true}", `the customer has to accept it`},
		"an offset from nowhere":                 {"offset_from: game", "offset_from: gone", `"gone" is none of the other ports`},
		"an offset without its port":             {"    offset_from: game\n", "", `ports[1].offset: needs offset_from`},
		"an offset within the row":               {"container_port: 7000", "container_port: 7000\n    count: 3", `1 lies within the 3 ports of "game"`},
		"a port that is taken":                   {"    offset_from: game\n    offset: 1", "    container_port: 7000", `takes 7000/udp, which port "game" has`},
		"a port twice":                           {"name: query", "name: game", `ports[1].name: "game" is given twice`},
		"a variant twice":                        {"startup: ./", "  - {id: one, name: Two, image: a}\nstartup: ./", `variants[1].id: "one" is given twice`},
		"image and builtin":                      {"    image: docker", "    builtin: demo\n    image: docker", `variants[0]: needs exactly one of image and builtin`},
		"a default variant that is none":         {"startup: ./", "default_variant: two\nstartup: ./", `default_variant: "two" is none of the variants`},
		"a hidden default variant":               {"    image: docker", "    hidden: true\n    image: docker", `is hidden`},
		"a file path that leaves the folder":     {"path: cfg/server.json", "path: ../server.json", `files[0].path: "../server.json" must be a path below the folder`},
		"an absolute file path":                  {"path: cfg/server.json", "path: /etc/passwd", `must be a path below the folder`},
		"a format that is none":                  {"format: json", "format: lua", `"lua" is none of properties, yaml`},
		"a path in a file that is none":          {"      level: 5", "      level..x: 5", `files[0].set.level..x: path "level..x" has an empty part`},
		"stop in two ways":                       {"signal: SIGTERM", "signal: SIGTERM\n  command: stop", `stop: needs exactly one of command and signal`},
		"stop by typing where nothing is read":   {"  signal: SIGTERM", "  command: stop\nconsole: {input: none}", `cannot be typed`},
		"ready on a port that is UDP":            {"  signal: SIGTERM", "  signal: SIGTERM\nready: {tcp: query}", `port "query" is udp; it has to be tcp`},
		"a query of a port that is none":         {"  signal: SIGTERM", "  signal: SIGTERM\nquery: {protocol: a2s}", `query.port: "" is none of the ports`},
		"RCON without a secret":                  {"  signal: SIGTERM", "  signal: SIGTERM\nrcon: {protocol: source, port: game, password: NAME}", `no variable of type secret`},
		"console by RCON that is not there":      {"  signal: SIGTERM", "  signal: SIGTERM\nconsole: {input: rcon}", `rcon is not described`},
		"a player pattern without a name":        {"  signal: SIGTERM", "  signal: SIGTERM\nplayers: {joined: 'came'}", `(?P<name>…)`},
		"recommended below minimum":              {"  signal: SIGTERM", "  signal: SIGTERM\nresources: {memory_mib: {minimum: 5, recommended: 4}}", `4 is below the minimum 5`},
		"players in a wrong order":               {"  signal: SIGTERM", "  signal: SIGTERM\nresources: {players: [{players: 5, memory_mib: 4}, {players: 4, memory_mib: 9}]}", `resources.players[1]: must have more players`},
		"an impatient backoff":                   {"  signal: SIGTERM", "  signal: SIGTERM\ncrash: {backoff_min_ms: 5000, backoff_max_ms: 1000}", `5000 is above backoff_max_ms 1000`},
		"an environment name of ours":            {"env: {SLOTS:", "env: {MAMBA_X:", `names that start with MAMBA_ are ours`},
		"an environment name that is none":       {"env: {SLOTS:", "env: {a-b:", `must be the name of an environment variable`},
		"two scripts":                            {"  script: echo hi", "  script: echo hi\n  script_file: a.sh", `takes at most one of script and script_file`},
		"a shell command as a list":              {"startup: ./server --name \"{{var.NAME}}\" --port {{port.game}}", "startup: [a]\nstartup_shell: true", `must be one line of text`},
		"a second document":                      {"startup: ./", "---\nstartup: ./", `more than one document`},
		"a fault in the YAML":                    {"stop:\n", "stop: [\n", `is not YAML`},
		"a key that is no text":                  {"stop:\n", "? [a]\n: b\nstop:\n", `a key must be text, not a list`},
		"a NUL in the command":                   {`--port {{port.game}}`, `--port x`, ``},
		"a setting that is a list":               {"level: 5", "level: [5]", `files[0].set.level: must be text, a number, true or false, not a list`},
		"more than one fault, each at its place": {"protocol: both", "protocol: no\n    wrong: 1", "15:15: ports[0].protocol: \"no\" is none of tcp, udp, both\nblueprint.yaml:16:5: ports[0].wrong: is not a field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(small, c.old) {
				t.Fatalf("the case changes %q, which is not there", c.old)
			}
			b, err := Parse([]byte(strings.Replace(small, c.old, c.new, 1)), FileName)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var problems Problems
			if b != nil || !errors.As(err, &problems) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got:\n%v\nwant: %s", err, c.want)
			}
		})
	}
}

func TestParseRefusesWhatIsTooMuch(t *testing.T) {
	t.Parallel()
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 8), i-1)
	}
	for name, c := range map[string]struct{ source, want string }{
		"too many bytes":  {small + strings.Repeat("#", MaxBytes), "at most 262144"},
		"an alias bomb":   {bomb.String(), "anchors and aliases"},
		"a deep nest":     {"categories: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "nested deeper than 16"},
		"too many values": {"categories: [" + strings.Repeat("a,", MaxNodes) + "]", "more than 20000 values"},
		"nothing at all":  {"", "is empty"},
		"no text":         {"a: \xff", "not UTF-8"},
		"a bare list":     {"- a", "must be a mapping"},
		"many faults":     {strings.Repeat("x", 1) + ": 1\n" + manyUnknown(500), "is not a field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(c.source), FileName)
			var problems Problems
			if !errors.As(err, &problems) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %.300v, want %s", err, c.want)
			}
			if len(problems) > MaxProblems {
				t.Errorf("%d problems are reported", len(problems))
			}
		})
	}
}

func manyUnknown(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "unknown%d: 1\n", i)
	}
	return out.String()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte("schema: 1\nid: [\n"))
	f.Add([]byte("? a\n: &b c\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		b, err := Parse(source, FileName)
		if (b == nil) == (err == nil) {
			t.Fatalf("got %v and %v", b, err)
		}
		if b != nil {
			b.Form()
			b.PortRequests()
			if err := b.Validate(); err != nil {
				t.Fatalf("valid once, then not: %v", err)
			}
		}
	})
}

func TestLoadReadsTheFolder(t *testing.T) {
	t.Parallel()
	const svg = `<svg xmlns="http://www.w3.org/2000/svg">%s</svg>`
	withIcon := strings.Replace(small, "startup:", "icon: icon.svg\nstartup:", 1)
	withFile := strings.Replace(small, "  script: echo hi", "  script_file: in/install.sh", 1)
	for name, c := range map[string]struct {
		source string
		files  map[string]string
		want   string
	}{
		"nothing but the blueprint":      {small, nil, ""},
		"a drawing":                      {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<path d="M0 0" fill="url(#a)"/>`)}, ""},
		"a missing icon":                 {withIcon, nil, "icon: icon.svg is not in the folder"},
		"a script in the icon":           {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<script>alert(1)</script>`)}, "holds <script>"},
		"a handler in the icon":          {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<g onload="x()"/>`)}, "attribute onload"},
		"a link in the icon":             {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<a href="javascript:x"/>`)}, "holds <a>"},
		"a fetch in the icon":            {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<rect fill="url( http://x)"/>`)}, "attribute fill"},
		"a style in the icon":            {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<rect style="x:y"/>`)}, "attribute style"},
		"HTML in the icon":               {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<foreignObject/>`)}, "holds <foreignObject>"},
		"an element of another language": {withIcon, map[string]string{"icon.svg": fmt.Sprintf(svg, `<g xmlns="http://www.w3.org/1999/xhtml"/>`)}, "holds <g>"},
		"a DOCTYPE in the icon":          {withIcon, map[string]string{"icon.svg": `<!DOCTYPE svg [<!ENTITY a "b">]>` + fmt.Sprintf(svg, "")}, "DOCTYPE"},
		"a style sheet for the icon":     {withIcon, map[string]string{"icon.svg": `<?xml-stylesheet href="x"?>` + fmt.Sprintf(svg, "")}, "xml-stylesheet"},
		"an icon that is no drawing":     {withIcon, map[string]string{"icon.svg": "hello"}, "is empty"},
		"an icon that is too large":      {withIcon, map[string]string{"icon.svg": strings.Repeat(" ", MaxIconBytes+1)}, "too large"},
		"a PNG that is none":             {strings.Replace(withIcon, "icon.svg", "icon.png", 1), map[string]string{"icon.png": "x"}, "is not a PNG"},
		"an icon of another kind":        {strings.Replace(withIcon, "icon.svg", "icon.gif", 1), map[string]string{"icon.gif": "x"}, "must end in .svg or .png"},
		"a script of its own":            {withFile, map[string]string{"in/install.sh": "echo\n"}, ""},
		"a script that is missing":       {withFile, nil, "install.script_file: in/install.sh is not in the folder"},
		"a script with Windows lines":    {withFile, map[string]string{"in/install.sh": "echo\r\n"}, "Windows line ends"},
		"a script that is no text":       {withFile, map[string]string{"in/install.sh": "\x7fELF\x00"}, "is not text"},
		"a script that is a folder":      {withFile, map[string]string{"in/install.sh/x": "y"}, "cannot be read"},
		"a fault in the blueprint":       {"schema: 2", nil, "schema: 2"},
		"a folder that is too large":     {small, map[string]string{"big": strings.Repeat("x", MaxFolderBytes)}, "the folder holds more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := fstest.MapFS{FileName: {Data: []byte(c.source)}}
			for name, data := range c.files {
				folder[name] = &fstest.MapFile{Data: []byte(data)}
			}
			b, err := Load(folder)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if b.Install.Script == "" || string(b.Source) != c.source {
					t.Error("the bundle is not complete")
				}
				return
			}
			var problems Problems
			if b != nil || !errors.As(err, &problems) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %s", err, c.want)
			}
		})
	}
	if _, err := Load(fstest.MapFS{"x": {}}); err == nil || !strings.Contains(err.Error(), "blueprint.yaml: is missing") {
		t.Errorf("an empty folder: %v", err)
	}
}
