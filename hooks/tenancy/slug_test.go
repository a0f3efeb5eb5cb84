package tenancy_test

import (
	"regexp"
	"testing"

	"pgregory.net/rapid"

	"github.com/mambahost/mamba/hooks/tenancy"
)

func TestSlug(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"Acme":               "acme",
		"Łódź Gaming!":       "lodz-gaming",
		"  --Weiß & Söhne--": "weiss-and-sohne",
		"日本":                 "org",
		"X":                  "org-x",
		"a very long name that goes on and on and on": "a-very-long-name-that-goes-on-an",
		"../../etc/passwd": "etc-passwd",
		"<script>":         "script",
	} {
		if got := tenancy.Slug(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestEverySlugHasTheFormOfOne(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`)
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.String().Draw(rt, "name")
		slug := tenancy.Slug(name)
		if !form.MatchString(slug) || len(slug) < tenancy.MinSlugLength || len(slug)+len("-xxxxxxx") > tenancy.MaxSlugLength {
			rt.Fatalf("%q gives %q", name, slug)
		}
		if tenancy.Slug(slug) != slug {
			rt.Fatalf("%q gives %q, which gives %q", name, slug, tenancy.Slug(slug))
		}
	})
}
