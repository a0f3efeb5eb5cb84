package migrations

import (
	"strings"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/migrations"
)

const mailFrame = `<p>Hello,</p>
<p>%BODY%</p>
<p><a class="btn" href="%LINK%" target="_blank" rel="noopener">%BUTTON%</a></p>
<p>If you did not ask for this, you can ignore this mail.</p>
<p>{APP_NAME}</p>`

func init() {
	migrations.Register(func(app core.App) error {
		if err := configureUsers(app); err != nil {
			return err
		}
		s := app.Settings()
		s.Meta.AppName = "Mamba Host"
		s.Meta.SenderName = "Mamba Host"
		s.Meta.HideControls = false
		s.Batch.Enabled = false
		s.Logs.MinLevel = 4 // slog.LevelWarn: a row per request would be the busiest table of all
		s.RateLimits.Enabled = true
		s.RateLimits.Rules = []core.RateLimitRule{
			{Label: "*:auth", MaxRequests: 30, Duration: 60},
			{Label: "users:create", MaxRequests: 30, Duration: 60},
			{Label: "*:requestVerification", MaxRequests: 10, Duration: 60},
			{Label: "*:requestPasswordReset", MaxRequests: 10, Duration: 60},
		}
		return app.Save(s)
	}, nil)
}

// configureUsers lets a person sign up, see and change only themselves, and puts the tokens of
// mails behind a '#', where no server and no log sees them.
func configureUsers(app core.App) error {
	users, err := app.FindCollectionByNameOrId("users")
	if err != nil {
		return err
	}
	own, anyone := "id = @request.auth.id", ""
	users.ListRule, users.ViewRule, users.UpdateRule, users.DeleteRule = &own, &own, &own, nil
	users.CreateRule = &anyone
	users.OAuth2.MappedFields.Name = "name"
	mail := func(link, button, body string) string {
		r := mailFrame
		for from, to := range map[string]string{"%BODY%": body, "%LINK%": "{APP_URL}/" + link + "#token={TOKEN}", "%BUTTON%": button} {
			r = strings.Replace(r, from, to, 1)
		}
		return r
	}
	users.VerificationTemplate.Subject = "Confirm your e-mail address for {APP_NAME}"
	users.VerificationTemplate.Body = mail("verify", "Confirm my address", "Please confirm that this address is yours, then you can create servers.")
	users.ResetPasswordTemplate.Subject = "Choose a new password for {APP_NAME}"
	users.ResetPasswordTemplate.Body = mail("reset-password", "Choose a new password", "Somebody asked for a new password for this address.")
	users.ConfirmEmailChangeTemplate.Subject = "Confirm your new e-mail address for {APP_NAME}"
	users.ConfirmEmailChangeTemplate.Body = mail("confirm-email", "Confirm the new address", "Please confirm that this is your new address.")
	return app.Save(users)
}
