// Package blueprints is the language of a game: it parses, checks and compiles the folder that says
// how one game is run.
//
// It owns the words of blueprint.yaml, their meaning and every message about them. It refuses to
// run anything, to read a clock, a network or a database, and to know who is asking: what a
// customer chose comes in as text, a wire.Spec or a list of faults goes out.
//
// Its one invariant: text that a customer typed is only ever copied. A placeholder is looked for in
// the author's text alone, once, from an allow-list; whatever a value holds, it is never read as a
// template, a shell word or a path (CVE-2026-52855).
package blueprints

//go:generate go test . -run TestReferenceIsCurrent -update

// FileName is the name of the one file that every blueprint folder has.
const FileName = "blueprint.yaml"

// SchemaVersion is the version of the language that this package speaks.
const SchemaVersion = 1

// Limits of a blueprint. They bound what an upload can cost.
const (
	MaxBytes       = 256 << 10 // blueprint.yaml
	MaxDepth       = 16        // nesting of blueprint.yaml
	MaxNodes       = 20_000    // values and keys in blueprint.yaml
	MaxProblems    = 100       // faults reported at once
	MaxScriptBytes = 128 << 10 // an install script
	MaxIconBytes   = 128 << 10 // an icon
	MaxIconPixels  = 512       // width and height of a PNG icon
	MaxFolderFiles = 100       // files in a blueprint folder
	MaxFolderBytes = 4 << 20   // all of them
)

// The comments of the fields below are the reference documentation (docs/blueprints.md) and the
// descriptions in schema.json; TestReferenceIsCurrent keeps the three the same. The check tag holds
// what one value must be by itself; what several must be together is in validate.go.

// Blueprint is the whole of a `blueprint.yaml`.
type Blueprint struct {
	// Version of the blueprint language. Always `1`.
	Schema int64 `yaml:"schema" check:"required,min=1,max=1"`
	// The game's name in URLs, labels and folders. It never changes once servers use it.
	ID string `yaml:"id" check:"required,pattern=slug,max=64"`
	// The game's name as people see it.
	Name string `yaml:"name" check:"required,pattern=label,max=80"`
	// Version of this blueprint (not of the game), by semver.org. Raise it with each change: servers pin theirs.
	Version string `yaml:"version" check:"required,pattern=semver,max=64"`
	// One sentence for the catalogue.
	Summary string `yaml:"summary" check:"required,pattern=label,max=160"`
	// A few paragraphs for the game's page. Plain text, blank lines separate paragraphs.
	Description string `yaml:"description" check:"pattern=prose,max=8000"`
	// A file of the folder: SVG without scripts, or PNG of at most 512×512.
	Icon string `yaml:"icon" check:"pattern=path,max=255"`
	// Where the catalogue lists the game, e.g. `sandbox`, `survival`.
	Categories []string `yaml:"categories" check:"max=8" each:"pattern=slug,max=32"`
	// Who wrote the blueprint.
	Authors []string `yaml:"authors" check:"max=16" each:"pattern=label,max=120"`
	// What the game can do beyond starting and stopping, as words that the panel may know, e.g. `eula`, `java`.
	Features []string `yaml:"features" check:"max=32" each:"pattern=word,max=32"`
	// The images that the game can run in. The customer picks one.
	Variants []Variant `yaml:"variants" check:"required,max=16"`
	// The `id` of the variant that is used when none is picked. Empty: the first.
	DefaultVariant string `yaml:"default_variant" check:"pattern=word,max=32"`
	// The command that runs the game: a list of arguments, or one line that is split like a shell splits it.
	// Placeholders are filled in after splitting, so a value is always one argument.
	Startup Command `yaml:"startup" check:"required"`
	// Run `startup` (one line of text) with `/bin/sh -c`. Placeholders become environment variables, never program
	// text: put double quotes round them.
	StartupShell bool `yaml:"startup_shell"`
	// Where the server's data is mounted in the container, and where the game starts.
	WorkDir string `yaml:"work_dir" check:"pattern=workdir,max=255,default=/home/container"`
	// Environment of the game. Values may hold placeholders. Names that start with `MAMBA_` are ours.
	Env map[string]string `yaml:"env" check:"max=128" each:"pattern=env,max=64"`
	// How the game is asked to end.
	Stop Stop `yaml:"stop" check:"required"`
	// How we know that the game has started. Nothing but a time limit: as soon as its process runs.
	Ready Ready `yaml:"ready"`
	// The ports that the game listens on. Nothing else can be reached from outside.
	Ports []Port `yaml:"ports" check:"max=32"`
	// What can be set for each server.
	Variables []Variable `yaml:"variables" check:"max=128"`
	// Config files that are edited before each start. What they do not name stays as it is: comments, order,
	// unknown keys and the customer's own edits.
	Files []File `yaml:"files" check:"max=64"`
	// What runs once, in a container of its own, before the first start and at each reinstall. Absent: nothing.
	Install *Install `yaml:"install"`
	// How much the game needs. Hints for the wizard, not limits.
	Resources Resources `yaml:"resources"`
	// How the game is asked who is on it.
	Query Query `yaml:"query"`
	// The game's remote console, when it has one.
	RCON *RCON `yaml:"rcon"`
	// The console in the browser.
	Console Console `yaml:"console"`
	// Log lines that tell who plays.
	Players Players `yaml:"players"`
	// What is done around a backup of a running server.
	Backup Backup `yaml:"backup"`
	// What is done when the game ends unasked.
	Crash Crash `yaml:"crash"`

	positions positions // where each path stands in the file; immutable after Parse
}

// Variant is one image that the game can run in.
type Variant struct {
	// Its name for machines.
	ID string `yaml:"id" check:"required,pattern=word,max=32"`
	// Its name for people.
	Name string `yaml:"name" check:"required,pattern=label,max=80"`
	// An image reference, e.g. `docker.io/library/eclipse-temurin:21-jre`. One that is on the node already needs no registry.
	Image string `yaml:"image" check:"pattern=image,max=255"`
	// Instead of `image`: one that the node makes itself.
	Builtin string `yaml:"builtin" check:"enum=demo"`
	// Replaces the blueprint's `startup` for this image.
	Startup Command `yaml:"startup"`
	// Replaces the blueprint's `startup_shell`; only together with `startup`.
	StartupShell bool `yaml:"startup_shell"`
	// Added to the blueprint's `env`; the variant's value wins.
	Env map[string]string `yaml:"env" check:"max=128" each:"pattern=env,max=64"`
	// The image brings the game with it: the blueprint's `install` is not run.
	SkipInstall bool `yaml:"skip_install"`
	// Not offered to customers; an operator or a test may name it.
	Hidden bool `yaml:"hidden"`
}

// Stop is how the game is asked to end. Exactly one of `command` and `signal`.
type Stop struct {
	// A line for the game's console, e.g. `stop`.
	Command string `yaml:"command" check:"pattern=line,max=512"`
	// A signal for its process.
	Signal string `yaml:"signal" check:"enum=SIGTERM|SIGINT|SIGQUIT|SIGHUP|SIGUSR1|SIGUSR2"`
	// Seconds until it is killed.
	TimeoutS int64 `yaml:"timeout_s" check:"min=1,max=3600,default=30"`
}

// Ready is how we know that the game has started. At most one of `log` and `tcp`.
type Ready struct {
	// A regular expression (RE2) that one line of its log matches.
	Log string `yaml:"log" check:"pattern=regex,max=1024"`
	// The name of a port that accepts TCP connections.
	TCP string `yaml:"tcp" check:"pattern=word,max=32"`
	// Seconds until the start counts as failed.
	TimeoutS int64 `yaml:"timeout_s" check:"min=1,max=7200,default=300"`
}

// Port is one port, or several that follow each other.
type Port struct {
	// Its name in placeholders: `{{port.game}}`.
	Name string `yaml:"name" check:"required,pattern=word,max=32"`
	// What it is for, for people.
	Description string `yaml:"description" check:"pattern=label,max=160"`
	// `both` takes the same number for TCP and UDP.
	Protocol string `yaml:"protocol" check:"required,enum=tcp|udp|both"`
	// The number inside the container. Absent: the same as outside, for games that announce their own port.
	ContainerPort int64 `yaml:"container_port" check:"min=1,max=65535"`
	// The number to try first outside.
	HostPortHint int64 `yaml:"host_port_hint" check:"min=1,max=65535"`
	// This port is always `offset` above that one, inside and outside.
	OffsetFrom string `yaml:"offset_from" check:"pattern=word,max=32"`
	// See `offset_from`.
	Offset int64 `yaml:"offset" check:"min=1,max=1000"`
	// How many ports in a row, this number first.
	Count int64 `yaml:"count" check:"min=1,max=64,default=1"`
}

// Variable is one thing that can be set for each server.
type Variable struct {
	// Its name in placeholders: `{{var.MAX_PLAYERS}}`.
	Key string `yaml:"key" check:"required,pattern=variable,max=64"`
	// Its name for people.
	Name string `yaml:"name" check:"required,pattern=label,max=80"`
	// What it does, in a sentence or two.
	Description string `yaml:"description" check:"pattern=prose,max=1000"`
	// What kind of value it takes. A `secret` is text that is never shown again.
	Type string `yaml:"type" check:"required,enum=string|int|bool|enum|secret"`
	// The value when nothing is given. A required variable without a default is asked for when a server is made.
	Default Scalar `yaml:"default" check:"max=4096"`
	// What a value must be.
	Rules Rules `yaml:"rules"`
	// May the customer see it?
	UserView bool `yaml:"user_view" check:"default=true"`
	// May the customer change it? What cannot be seen cannot be changed.
	UserEdit bool `yaml:"user_edit" check:"default=true"`
	// Where the form shows it.
	Group string `yaml:"group" check:"enum=basic|advanced,default=basic"`
	// Its place in its group: lower first, then as written.
	Order int64 `yaml:"order" check:"min=-1000,max=1000"`
}

// Rules are what a value must be. An empty value passes all but `required` and `accepted`.
type Rules struct {
	// A value must be given.
	Required bool `yaml:"required"`
	// It must be `true`: terms that have to be accepted. Only for `bool`.
	Accepted bool `yaml:"accepted"`
	// Smallest number. Only for `int`.
	Min *int64 `yaml:"min"`
	// Largest number. Only for `int`.
	Max *int64 `yaml:"max"`
	// Fewest characters. Only for `string` and `secret`.
	MinLength int64 `yaml:"min_length" check:"min=0,max=4096"`
	// Most characters. Only for `string` and `secret`.
	MaxLength int64 `yaml:"max_length" check:"min=1,max=4096,default=256"`
	// A regular expression (RE2) that the whole value matches. Only for `string` and `secret`.
	Regex string `yaml:"regex" check:"pattern=regex,max=1024"`
	// The values to choose from. Only, and always, for `enum`.
	In []Option `yaml:"in" check:"max=256"`
	// What to tell the customer when `regex` does not match, e.g. `Use letters and digits only.`
	Message string `yaml:"message" check:"pattern=label,max=200"`
}

// Option is one choice of an `enum`.
type Option struct {
	// What the game gets.
	Value Scalar `yaml:"value" check:"required,max=256"`
	// What the customer reads. Empty: the value.
	Label string `yaml:"label" check:"pattern=label,max=80"`
}

// File is a config file that is edited before each start.
type File struct {
	// Where it is, below the server's data folder.
	Path string `yaml:"path" check:"required,pattern=path,max=255"`
	// How it is written. `ini` without a section is plain `key = value`; `text` replaces whole lines by their beginning.
	Format string `yaml:"format" check:"required,enum=properties|yaml|json|ini|toml|xml|text"`
	// Make it when it is missing.
	Create bool `yaml:"create" check:"default=true"`
	// What is set: path in the file → value. Values may hold placeholders. See “Paths in config files”.
	Set Settings `yaml:"set" check:"required,max=256"`
}

// Install is a script that runs once in a container of its own, in the server's data folder.
type Install struct {
	// An image reference. Empty together with `builtin`: the variant's own image.
	Image string `yaml:"image" check:"pattern=image,max=255"`
	// Instead of `image`: one that the node makes itself.
	Builtin string `yaml:"builtin" check:"enum=demo"`
	// What runs the script; the script's path is added as its last argument. Without a script it is run as it is.
	Entrypoint Command `yaml:"entrypoint" check:"required"`
	// The script. It is never a template: what it needs comes in its environment.
	Script string `yaml:"script" check:"max=131072"`
	// Instead of `script`: a file of the folder.
	ScriptFile string `yaml:"script_file" check:"pattern=path,max=255"`
	// Environment of the script. Values may hold placeholders.
	Env map[string]string `yaml:"env" check:"max=128" each:"pattern=env,max=64"`
	// Seconds until it is stopped and counts as failed.
	TimeoutS int64 `yaml:"timeout_s" check:"min=1,max=86400,default=1800"`
	// May it reach the internet?
	Network bool `yaml:"network"`
	// What it may use. What is absent is as the server's own limit.
	Limits InstallLimits `yaml:"limits"`
}

// InstallLimits are what an install script may use.
type InstallLimits struct {
	// Thousandths of a core.
	CPUMillicores int64 `yaml:"cpu_millicores" check:"min=100,max=8000"`
	// MiB of memory.
	MemoryMiB int64 `yaml:"memory_mib" check:"min=64,max=16384"`
	// Processes and threads.
	PIDs int64 `yaml:"pids" check:"min=16,max=4096"`
}

// Resources are hints for the wizard.
type Resources struct {
	// Thousandths of a core.
	CPUMillicores Hint `yaml:"cpu_millicores"`
	// MiB of memory.
	MemoryMiB Hint `yaml:"memory_mib"`
	// MiB of disk.
	DiskMiB Hint `yaml:"disk_mib"`
	// Memory for so many players, so that the wizard can say “about 12 players”.
	Players []PlayerHint `yaml:"players" check:"max=16"`
}

// Hint is how much of something the game needs.
type Hint struct {
	// Below this it does not start.
	Minimum int64 `yaml:"minimum" check:"min=0,max=10000000"`
	// What a normal server wants.
	Recommended int64 `yaml:"recommended" check:"min=0,max=10000000"`
}

// PlayerHint is how much memory so many players need.
type PlayerHint struct {
	// About so many players at once.
	Players int64 `yaml:"players" check:"required,min=1,max=10000"`
	// MiB of memory.
	MemoryMiB int64 `yaml:"memory_mib" check:"required,min=1,max=1000000"`
}

// Query is how the game is asked who is on it.
type Query struct {
	// `minecraft` is the server list ping, `a2s` is Valve's server query.
	Protocol string `yaml:"protocol" check:"enum=none|minecraft|a2s,default=none"`
	// The name of the port that answers.
	Port string `yaml:"port" check:"pattern=word,max=32"`
}

// RCON is the game's remote console.
type RCON struct {
	// `source` is Valve's protocol, which Minecraft speaks too.
	Protocol string `yaml:"protocol" check:"required,enum=source"`
	// The name of the port that answers.
	Port string `yaml:"port" check:"required,pattern=word,max=32"`
	// The key of the `secret` variable that holds its password.
	Password string `yaml:"password" check:"required,pattern=variable,max=64"`
}

// Console is the console in the browser.
type Console struct {
	// How a command reaches the game. `none`: the log can be read, nothing can be typed.
	Input string `yaml:"input" check:"enum=stdin|rcon|none,default=stdin"`
}

// Players are log lines that tell who plays. Each needs a group `(?P<name>…)`.
type Players struct {
	// A line that says that somebody came (RE2).
	Joined string `yaml:"joined" check:"pattern=regex,max=1024"`
	// A line that says that somebody left (RE2).
	Left string `yaml:"left" check:"pattern=regex,max=1024"`
}

// Backup is what is done around a backup of a running server.
type Backup struct {
	// Console commands before it, e.g. `save-off`.
	Before []string `yaml:"before" check:"max=16" each:"pattern=line,max=512"`
	// Console commands after it, whether it went well or not.
	After []string `yaml:"after" check:"max=16" each:"pattern=line,max=512"`
	// Files and folders that need no backup, as `.gitignore` lines.
	Ignore []string `yaml:"ignore" check:"max=128" each:"pattern=line,max=255"`
}

// Crash is what is done when the game ends unasked.
type Crash struct {
	// How often it is started again. 0: never.
	MaxAttempts int64 `yaml:"max_attempts" check:"min=0,max=100,default=5"`
	// Milliseconds before the first attempt. The wait doubles each time.
	BackoffMinMS int64 `yaml:"backoff_min_ms" check:"min=100,max=600000,default=2000"`
	// The longest wait in milliseconds.
	BackoffMaxMS int64 `yaml:"backoff_max_ms" check:"min=100,max=3600000,default=60000"`
	// A run of so many seconds clears the count.
	StableS int64 `yaml:"stable_s" check:"min=1,max=86400,default=300"`
}

// Variant returns the variant of that id, or the default one for "". False when there is none.
func (b *Blueprint) Variant(id string) (Variant, bool) {
	if id == "" {
		id = b.DefaultVariant
	}
	for _, v := range b.Variants {
		if v.ID == id || id == "" {
			return v, true
		}
	}
	return Variant{}, false
}

// Variable returns the variable of that key.
func (b *Blueprint) Variable(key string) (Variable, bool) {
	for _, v := range b.Variables {
		if v.Key == key {
			return v, true
		}
	}
	return Variable{}, false
}

// Port returns the port of that name.
func (b *Blueprint) Port(name string) (Port, bool) {
	for _, p := range b.Ports {
		if p.Name == name {
			return p, true
		}
	}
	return Port{}, false
}

// SecretKeys are the keys of the variables whose values are never shown, stored or logged in clear.
func (b *Blueprint) SecretKeys() []string {
	var keys []string
	for _, v := range b.Variables {
		if v.Type == TypeSecret {
			keys = append(keys, v.Key)
		}
	}
	return keys
}

// Types of a Variable.
const (
	TypeString = "string"
	TypeInt    = "int"
	TypeBool   = "bool"
	TypeEnum   = "enum"
	TypeSecret = "secret"
)
