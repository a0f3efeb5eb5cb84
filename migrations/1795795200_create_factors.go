package migrations

import (
	_ "embed"
	"time"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

//go:embed 1795795200_create_factors.json
var createFactors []byte

// Makes the collections of second factors, gives sessions the time of their last proof, and switches the
// one-time codes of accounts on. PocketBase's own second step stays off: a checkpoint of ours is the one.
func init() {
	migrations.Register(func(app core.App) error {
		if err := app.ImportCollectionsByMarshaledJSON(createFactors, false); err != nil {
			return err
		}
		users, err := app.FindCollectionByNameOrId("users")
		if err != nil {
			return err
		}
		users.MFA.Enabled = false
		users.OTP.Enabled = true
		users.OTP.Length = 8
		users.OTP.Duration = int64(10 * time.Minute / time.Second)
		users.OTP.EmailTemplate.Subject = "Your code for {APP_NAME}"
		users.OTP.EmailTemplate.Body = `<p>Hello,</p>
<p>Your code to sign in is <strong>{OTP}</strong>. It is good for ten minutes.</p>
<p>If you did not ask for this, you can ignore this mail.</p>
<p>{APP_NAME}</p>`
		return app.Save(users)
	}, nil)
}
