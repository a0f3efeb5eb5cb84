package blueprints

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// checks are what one value must be by itself, from a field's check tag.
type checks struct {
	required bool
	pattern  string   // a name in patterns
	min, max *int64   // of a number; of the length of text in characters; of the items of a list
	enum     []string // the only values
	fallback string   // when it is absent
}

// pattern is a named form of text. ECMA is the same for JSON Schema.
type pattern struct {
	expression string
	say        string // completes "… must be"
}

// patterns are Go and ECMAScript (with its u flag) at once, except those with an ok function.
var patterns = map[string]pattern{
	"slug":     {`^[a-z0-9]+(-[a-z0-9]+)*$`, `small letters, digits and single dashes, e.g. "my-game"`},
	"word":     {`^[a-z0-9]([a-z0-9_.-]*[a-z0-9])?$`, `small letters, digits, dots, dashes and underscores, e.g. "game"`},
	"semver":   {`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`, `a version such as "1.0.0"`},
	"label":    {`^[^<>\p{Cc}\p{Zl}\p{Zp}\p{Cf}]*$`, `one line of text without < and > or invisible characters`},
	"line":     {`^[^\p{Cc}\p{Zl}\p{Zp}]*$`, `one line of text`},
	"prose":    {`^([^\p{Cc}\p{Cf}]|[\n\t])*$`, `text without control or invisible characters`},
	"variable": {`^[A-Z][A-Z0-9_]*$`, `capitals, digits and underscores, e.g. "MAX_PLAYERS"`},
	"env":      {`^[A-Za-z_][A-Za-z0-9_]*$`, `the name of an environment variable, e.g. "SERVER_NAME"`},
	"image":    {`^[a-z0-9]+([._-][a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[a-f0-9]{64})?$`, `an image reference, e.g. "docker.io/library/debian:12-slim"`},
	"path":     {`^[^/\\\p{Cc}]+(/[^/\\\p{Cc}]+)*$`, `a path below the folder, with "/" between its parts and no ".."`},
	"workdir":  {`^/[^/\\\p{Cc}]+(/[^/\\\p{Cc}]+)*$`, `an absolute path without "..", e.g. "/home/container"`},
	"regex":    {`^[^\p{Cc}]*$`, `a regular expression of one line (RE2, https://github.com/google/re2/wiki/Syntax)`},
}

var compiled = sync.OnceValue(func() map[string]*regexp.Regexp {
	all := map[string]*regexp.Regexp{}
	for name, p := range patterns {
		all[name] = regexp.MustCompile(p.expression)
	}
	return all
})

// parseCheck reads a tag such as "required,pattern=slug,max=64". A tag it cannot read is a
// programmer's error.
func parseCheck(tag string) checks {
	var c checks
	if tag == "" {
		return c
	}
	for _, part := range strings.Split(tag, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "required":
			c.required = true
		case "pattern":
			if _, ok := patterns[value]; !ok {
				panic("blueprints: no pattern " + value)
			}
			c.pattern = value
		case "min", "max":
			number, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				panic("blueprints: check " + part)
			}
			if key == "min" {
				c.min = &number
			} else {
				c.max = &number
			}
		case "enum":
			c.enum = strings.Split(value, "|")
		case "default":
			c.fallback = value
		default:
			panic("blueprints: check " + part)
		}
	}
	return c
}

// text says what is wrong with s, or "".
func (c checks) text(s string) string {
	if s == "" {
		if c.required {
			return "is empty; give it a value"
		}
		return ""
	}
	if c.max != nil && int64(utf8.RuneCountInString(s)) > *c.max {
		return fmt.Sprintf("is %d characters long; at most %d are allowed", utf8.RuneCountInString(s), *c.max)
	}
	if len(c.enum) > 0 && !contains(c.enum, s) {
		return fmt.Sprintf("%q is none of %s", s, strings.Join(c.enum, ", "))
	}
	if c.pattern == "" {
		return ""
	}
	if !compiled()[c.pattern].MatchString(s) {
		return fmt.Sprintf("%q must be %s", s, patterns[c.pattern].say)
	}
	switch c.pattern {
	case "path", "workdir":
		for _, part := range strings.Split(s, "/") {
			if part == "." || part == ".." {
				return fmt.Sprintf("%q must be %s", s, patterns[c.pattern].say)
			}
		}
	case "regex":
		if _, err := regexp.Compile(s); err != nil {
			return fmt.Sprintf("is not a regular expression: %v (RE2 has no look-around and no back-references)", err)
		}
	}
	return ""
}

func (c checks) span() string {
	switch {
	case c.min != nil && c.max != nil:
		return fmt.Sprintf("between %d and %d", *c.min, *c.max)
	case c.min != nil:
		return fmt.Sprintf("%d or more", *c.min)
	}
	return fmt.Sprintf("%d or less", *c.max)
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

// controlFree reports whether s is one line without control characters or characters that reorder
// or hide text.
func controlFree(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == utf8.RuneError ||
			(r >= '\u202a' && r <= '\u202e') || (r >= '\u2066' && r <= '\u2069') {
			return false
		}
	}
	return true
}
