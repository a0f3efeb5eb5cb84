package migrations

import (
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

// Takes away what PocketBase gives every account and nobody here needs: a picture of 5 MB that
// anybody may fetch, and as many mails to any address as one likes to ask for.
func init() {
	migrations.Register(func(app core.App) error {
		users, err := app.FindCollectionByNameOrId("users")
		if err != nil {
			return err
		}
		users.Fields.RemoveByName("avatar")
		if err := app.Save(users); err != nil {
			return err
		}
		s := app.Settings()
		s.RateLimits.Rules = append(s.RateLimits.Rules,
			core.RateLimitRule{Label: "*:requestEmailChange", MaxRequests: 3, Duration: 3600},
			core.RateLimitRule{Label: "*:requestOTP", MaxRequests: 10, Duration: 60},
		)
		return app.Save(s)
	}, nil)
}
