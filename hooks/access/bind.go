package access

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/router"
)

const bodyKey = "mamba.access.body"

// Body returns the whole body of a request, read once and kept. Its size is bounded by the route's
// body limit; 413 when it is larger.
func Body(e *core.RequestEvent) ([]byte, error) {
	if raw, ok := e.Get(bodyKey).([]byte); ok {
		return raw, nil
	}
	raw, err := io.ReadAll(e.Request.Body)
	if err != nil {
		var api *router.ApiError
		if errors.As(err, &api) {
			return nil, err
		}
		return nil, BadRequest("body_unreadable", "The request ended before it was complete.").Because(err)
	}
	e.Set(bodyKey, raw)
	return raw, nil
}

// Bind decodes the JSON object in the body of a request into in, a pointer to a struct. It is strict:
// unknown and doubled fields, other types, other casing, trailing text and another content type are
// refused with 4xx that names the field.
func Bind(e *core.RequestEvent, in any) error {
	if kind, _, err := mime.ParseMediaType(e.Request.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Message: "Please send JSON with the content type application/json."}
	}
	raw, err := Body(e)
	if err != nil {
		return err
	}
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || trimmed[0] != '{' {
		return BadRequest("invalid_json", "Please send a JSON object.")
	}
	if err := json.Unmarshal(raw, in, json.RejectUnknownMembers(true)); err != nil {
		return bindError(err)
	}
	return nil
}

func bindError(err error) error {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		field := strings.ReplaceAll(strings.TrimPrefix(string(semantic.JSONPointer), "/"), "/", ".")
		if field == "" {
			return BadRequest("invalid_json", "The request has not the shape that is expected here.").Because(err)
		}
		if errors.Is(err, json.ErrUnknownName) {
			return InvalidField(field, "unknown", "This field is not known here.").Because(err)
		}
		if semantic.GoType == nil {
			return InvalidField(field, "type", "This has the wrong type.").Because(err)
		}
		return InvalidField(field, "type", fmt.Sprintf("This must be %s.", kindName(semantic.GoType.Kind().String()))).Because(err)
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return BadRequest("invalid_json", "The same field is given twice.").Because(err)
	}
	return BadRequest("invalid_json", "This is not valid JSON.").Because(err)
}

func kindName(kind string) string {
	switch {
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return "a whole number"
	case strings.HasPrefix(kind, "float"):
		return "a number"
	case kind == "string":
		return "text"
	case kind == "bool":
		return "true or false"
	case kind == "slice", kind == "array":
		return "a list"
	}
	return "an object"
}

// CleanText returns a line that a person typed with its white space tidied. ok is false when it has
// more than maxRunes characters, is not UTF-8, holds a character that cannot be seen or that turns the
// direction of writing, or nothing but what joins others: with those one name can be made to look like
// another, or like none.
func CleanText(s string, maxRunes int) (clean string, ok bool) {
	clean = strings.Join(strings.Fields(s), " ")
	ok = utf8.ValidString(clean) && utf8.RuneCountInString(clean) <= maxRunes && !strings.ContainsFunc(clean, hiddenRune)
	return clean, ok && (clean == "" || strings.ContainsFunc(clean, func(r rune) bool { return !joins(r) && r != ' ' }))
}

// hiddenRune: controls, format characters, and letters that stand for nothing (e.g. U+3164). Joiners
// are let through: Persian and emoji are spelled with them.
func hiddenRune(r rune) bool {
	return !joins(r) && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point)
}

func joins(r rune) bool {
	return r == '\u200c' || r == '\u200d' || unicode.Is(unicode.Variation_Selector, r)
}
