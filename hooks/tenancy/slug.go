package tenancy

import (
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"golang.org/x/text/runes"
	"golang.org/x/text/transform"
	"golang.org/x/text/unicode/norm"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
)

// Limits of names and slugs, in characters.
const (
	MaxNameLength = 80
	MinSlugLength = 2
	MaxSlugLength = 40
)

const maxSlugTries = 50 // "-2" … "-50" before a random suffix

var slugPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`)
})

// reserved words would be taken for a route, a page of the web app, or for us.
var reserved = []string{
	"about", "account", "admin", "api", "app", "assets", "audit", "auth", "billing", "blog", "console", "current", "dashboard", "docs",
	"help", "host", "internal", "invites", "join", "legal", "login", "logout", "mail", "mamba", "mambahost", "me", "new", "node", "nodes",
	"null", "official", "operator", "panel", "public", "register", "reset-password", "root", "security", "server", "servers", "settings",
	"signin", "signup", "staff", "static", "status", "superuser", "support", "switch", "system", "team", "tenant", "tenants", "undefined",
	"user", "users", "verify", "webhooks", "wings", "www",
}

// slugFault returns what is wrong with a slug that a person chose, nil when nothing is.
func slugFault(slug string) *access.FieldError {
	switch {
	case len(slug) < MinSlugLength || len(slug) > MaxSlugLength:
		return &access.FieldError{Code: "length", Message: fmt.Sprintf("Please use %d to %d characters.", MinSlugLength, MaxSlugLength)}
	case !slugPattern().MatchString(slug):
		return &access.FieldError{Code: "pattern", Message: "Please use small letters, digits and dashes, and a letter or digit at both ends."}
	case slices.Contains(reserved, slug):
		return &access.FieldError{Code: "reserved", Message: "This one cannot be used. Please choose another."}
	}
	return nil
}

// Slug derives a short name for addresses from a name: "Łódź Gaming!" becomes "lodz-gaming". It may
// be reserved or taken; it always has the form of a slug.
func Slug(name string) string {
	plain, _, err := transform.String(transform.Chain(norm.NFKD, runes.Remove(runes.In(unicode.Mn))), name)
	if err != nil {
		plain = name
	}
	plain = strings.NewReplacer("ß", "ss", "æ", "ae", "ø", "o", "œ", "oe", "ł", "l", "đ", "d", "þ", "th", "&", " and ").Replace(strings.ToLower(plain))
	dashed := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, plain)
	parts := strings.FieldsFunc(dashed, func(r rune) bool { return r == '-' })
	slug := strings.Join(parts, "-")
	slug = strings.Trim(slug[:min(len(slug), MaxSlugLength-8)], "-")
	if len(slug) < MinSlugLength {
		return strings.Trim("org-"+slug, "-")
	}
	return slug
}

// freeSlug returns the slug for a name that no tenant has, with a suffix where needed. The caller's
// transaction holds slugLock.
func freeSlug(tx core.App, name string) (string, error) {
	base := Slug(name)
	for i := 1; i <= maxSlugTries; i++ {
		slug := base
		if i > 1 {
			slug = fmt.Sprintf("%s-%d", base, i)
		}
		if slices.Contains(reserved, slug) {
			continue
		}
		taken, err := slugTaken(tx, slug, "")
		if err != nil || !taken {
			return slug, err
		}
	}
	return base + "-" + strings.ToLower(rand.Text()[:7]), nil
}

// slugLock is held by a transaction that gives a tenant a slug.
const slugLock collections.Lock = "tenant_slugs"

// slugTaken reports whether another tenant than except has the slug. That of one which was purged is free.
func slugTaken(tx core.App, slug, except string) (bool, error) {
	row, err := collections.One[collections.Tenant](tx, collections.Tenants, dbx.HashExp{"slug": slug})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for slug %s: %w", slug, err)
	}
	return row.Id != except, nil
}
