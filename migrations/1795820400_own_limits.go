package migrations

import (
	"slices"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

// PocketBase's rules of earlier migrations go: each instance counted for itself, and their refusals did not say when to
// come again. hooks/access has a limit for each of these doors. What an operator added stays.
func init() {
	migrations.Register(func(app core.App) error {
		ours := []string{"*:auth", "users:create", "*:requestVerification", "*:requestPasswordReset", "*:requestEmailChange", "*:requestOTP"}
		s := app.Settings()
		s.RateLimits.Rules = slices.DeleteFunc(s.RateLimits.Rules, func(r core.RateLimitRule) bool { return slices.Contains(ours, r.Label) })
		s.RateLimits.Enabled = len(s.RateLimits.Rules) > 0 // PocketBase takes no empty list
		return app.Save(s)
	}, nil)
}
