package blueprints

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxValueBytes bounds one value of a variable.
const MaxValueBytes = 4096

// Check says in a sentence for a customer what is wrong with value, or "" when it is right. An empty
// value is "not given".
func (v Variable) Check(value string) string {
	switch {
	case len(value) > MaxValueBytes:
		return fmt.Sprintf("%s is too long.", v.Name)
	case !utf8.ValidString(value) || !controlFree(value):
		return fmt.Sprintf("%s must be one line without invisible characters.", v.Name)
	case v.Rules.Accepted && value != "true":
		return fmt.Sprintf("%s has to be accepted.", v.Name)
	case value == "" && v.Rules.Required:
		return fmt.Sprintf("%s is required.", v.Name)
	case value == "":
		return ""
	}
	switch v.Type {
	case TypeInt:
		return v.checkInt(value)
	case TypeBool:
		if value != "true" && value != "false" {
			return fmt.Sprintf("%s must be true or false.", v.Name)
		}
		return ""
	case TypeEnum:
		return v.checkEnum(value)
	}
	return v.checkText(value)
}

func (v Variable) checkInt(value string) string {
	number, err := strconv.ParseInt(value, 10, 64)
	if err != nil || strconv.FormatInt(number, 10) != value {
		return fmt.Sprintf("%s must be a whole number.", v.Name)
	}
	low, high := v.Rules.Min, v.Rules.Max
	if low != nil && number < *low || high != nil && number > *high {
		return fmt.Sprintf("%s must be %s.", v.Name, checks{min: low, max: high}.span())
	}
	return ""
}

func (v Variable) checkEnum(value string) string {
	labels := make([]string, len(v.Rules.In))
	for i, o := range v.Rules.In {
		if string(o.Value) == value {
			return ""
		}
		labels[i] = o.Text()
	}
	return fmt.Sprintf("%s must be one of: %s.", v.Name, strings.Join(labels, ", "))
}

func (v Variable) checkText(value string) string {
	length := int64(utf8.RuneCountInString(value))
	if length < v.Rules.MinLength {
		return fmt.Sprintf("%s must have at least %d characters.", v.Name, v.Rules.MinLength)
	}
	if v.Rules.MaxLength > 0 && length > v.Rules.MaxLength {
		return fmt.Sprintf("%s must have at most %d characters.", v.Name, v.Rules.MaxLength)
	}
	if v.Rules.Regex == "" {
		return ""
	}
	// The whole value has to match, however the author anchored it.
	whole, err := regexp.Compile(`^(?:` + v.Rules.Regex + `)$`)
	if err != nil || !whole.MatchString(value) {
		if v.Rules.Message != "" {
			return v.Name + ": " + v.Rules.Message
		}
		return fmt.Sprintf("%s has a form that the game does not accept.", v.Name)
	}
	return ""
}

// Text is what the customer reads.
func (o Option) Text() string {
	if o.Label != "" {
		return o.Label
	}
	return string(o.Value)
}

// VariableError is one value that cannot be taken. Key is "name" for the server's own name.
type VariableError struct {
	Key     string `json:"key"`
	Message string `json:"message"` // for the customer
}

func (e VariableError) Error() string { return e.Key + ": " + e.Message }

// VariableErrors are all of them, in the order of the form.
type VariableErrors []VariableError

func (e VariableErrors) Error() string {
	parts := make([]string, len(e))
	for i, one := range e {
		parts[i] = one.Error()
	}
	return strings.Join(parts, "; ")
}

// CheckValues says what Compile would say of the values of a server: VariableErrors, or nil.
func (b *Blueprint) CheckValues(customer, operator map[string]string) error {
	if _, faults := b.values(customer, operator); len(faults) > 0 {
		return faults
	}
	return nil
}

// values decides the value of each variable: default, then the customer's, then the operator's.
func (b *Blueprint) values(customer, operator map[string]string) (map[string]string, VariableErrors) {
	var errs VariableErrors
	bad := func(key, format string, args ...any) {
		errs = append(errs, VariableError{key, fmt.Sprintf(format, args...)})
	}
	all := map[string]string{}
	for _, v := range b.Variables {
		value, fault := string(v.Default), ""
		if given, ok := customer[v.Key]; ok {
			value = given
			switch {
			case !v.UserView:
				fault = unknownVariable
			case !v.UserEdit:
				fault = v.Name + " is set by your host and cannot be changed."
			}
		}
		if given, ok := operator[v.Key]; ok {
			value = given
		}
		if fault == "" {
			fault = v.Check(value)
		}
		if fault != "" {
			bad(v.Key, "%s", fault)
		}
		all[v.Key] = value
	}
	for _, given := range []map[string]string{customer, operator} {
		for _, key := range sortedKeys(given) {
			if _, ok := b.Variable(key); !ok {
				bad(key, unknownVariable)
			}
		}
	}
	return all, errs
}

// unknownVariable is said of what is hidden, too: nobody learns what there is.
const unknownVariable = "This game has no such setting."
