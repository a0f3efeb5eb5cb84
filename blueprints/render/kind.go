package render

import (
	"errors"
	"fmt"
	"regexp"
	"sync"
)

// Kinds of a value in formats that have types.
const (
	kindString = "string"
	kindNumber = "number"
	kindBool   = "bool"
	kindOther  = "other" // null, a date: no kind to keep
)

// numberForm is what JSON, YAML and TOML all read as the same number.
var numberForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?$`)
})

func fits(kind, value string) bool {
	switch kind {
	case kindNumber:
		return numberForm().MatchString(value)
	case kindBool:
		return value == "true" || value == "false"
	case kindString:
		return true
	}
	return false
}

// decideKind is what value becomes: as the edit says; else as what is there, when it fits; else the
// narrowest that fits. old is empty when nothing is there.
func decideKind(asked, old, value string) (string, error) {
	switch asked {
	case kindString, kindNumber, kindBool:
		if !fits(asked, value) {
			return "", fmt.Errorf("%q is not a %s", value, asked)
		}
		return asked, nil
	case "":
	default:
		return "", fmt.Errorf("kind %q is none of string, number, bool", asked)
	}
	if fits(old, value) {
		return old, nil
	}
	for _, kind := range []string{kindNumber, kindBool} {
		if fits(kind, value) {
			return kind, nil
		}
	}
	return kindString, nil
}

var errNotAsAsked = errors.New("cannot be set without disturbing the rest of the file; write this part in a plainer form")
