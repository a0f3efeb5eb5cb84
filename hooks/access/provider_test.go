package access_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// A code by mail shows that the address is whose it says. Who has a second factor is held up all the same, in the one
// transaction that confirms the address.
func TestACodeByMailConfirmsTheAddress(t *testing.T) {
	t.Parallel()
	for name, factor := range map[string]bool{"alone": false, "with a second factor": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPanel(t, nil)
			user, _ := p.user(t, "ann@example.test", true)
			var a authenticator
			if factor {
				a = p.enrol(t, p.begin(t, "ann@example.test").access)
				p.rewind(t, user.Id)
			}
			user, err := p.FindRecordById("users", user.Id)
			if err != nil {
				t.Fatal(err)
			}
			user.SetVerified(false)
			if err := p.Save(user); err != nil {
				t.Fatal(err)
			}
			otp := core.NewOTP(p)
			otp.SetCollectionRef(user.Collection().Id)
			otp.SetRecordRef(user.Id)
			otp.SetPassword("31415926")
			otp.SetSentTo("ann@example.test")
			if err := p.Save(otp); err != nil {
				t.Fatal(err)
			}
			body := fmt.Sprintf(`{"otpId":%q,"password":"31415926"}`, otp.Id)
			before := p.count(t, collections.Sessions)
			rec := p.call("POST", "/api/collections/users/auth-with-otp", "", body)
			said := p.notes.all()
			if strings.Count(said, "user.verify users/"+user.Id) != 1 {
				t.Errorf("written down: %s", said)
			}
			if again := p.call("POST", "/api/collections/users/auth-with-otp", "", body); again.Code != 400 {
				t.Errorf("the same code twice: %d %s", again.Code, again.Body)
			}
			if !factor {
				if token := tokenIn(t, rec).Token; !p.alive(t, token) || p.count(t, collections.Sessions) != before+1 {
					t.Errorf("%d %s", rec.Code, rec.Body)
				}
				return
			}
			c := answerOf[struct{ Checkpoint heldUp }](t, rec, 401).Checkpoint
			if c.Token == "" || p.count(t, collections.Sessions) != before || len(rec.Result().Cookies()) != 0 {
				t.Fatalf("%d %s", rec.Code, rec.Body)
			}
			next := p.call("POST", accountPath+"/checkpoint", "", fmt.Sprintf(`{"checkpoint":%q,"code":%q}`, c.Token, a.code(0)))
			if !p.alive(t, tokenIn(t, next).Token) {
				t.Errorf("%d %s", next.Code, next.Body)
			}
		})
	}
}
