package hooks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/security"

	"github.com/mambahost/mamba/hooks/secrets"
)

// PocketBase keeps the client secrets of OAuth2 providers among the options of a collection, in clear, and shows them to
// superusers. Here they are encrypted before a collection is stored, with the key of the settings, and opened for the one
// request that shows them to the provider. Everywhere else, caches and answers included, they stay encrypted.

// sealedProvider begins an encrypted client secret.
const sealedProvider = "mamba-sealed:"

// sealProvider encrypts a client secret with the newest of the keys, unless that is how it is.
func sealProvider(secret string, keys [][]byte) (string, error) {
	newest := settingsText(keys[0])
	text, isSealed := strings.CutPrefix(secret, sealedProvider)
	if isSealed {
		if _, err := security.Decrypt(text, newest); err == nil {
			return secret, nil
		}
		plain, err := openProvider(secret, keys)
		if err != nil {
			return "", err
		}
		secret = plain
	}
	text, err := security.Encrypt([]byte(secret), newest)
	if err != nil {
		return "", fmt.Errorf("encrypt a client secret: %w", err)
	}
	return sealedProvider + text, nil
}

// openProvider returns the client secret that a provider gave out.
func openProvider(secret string, keys [][]byte) (string, error) {
	text, isSealed := strings.CutPrefix(secret, sealedProvider)
	if !isSealed {
		return secret, nil
	}
	for _, key := range keys {
		if plain, err := security.Decrypt(text, settingsText(key)); err == nil {
			return string(plain), nil
		}
	}
	return "", fmt.Errorf("the client secret of an OAuth2 provider does not open with this installation's keys; enter it again: %w", secrets.ErrMasterKey)
}

// withProviders returns the providers of a collection with other client secrets; the collection stays as it is.
func withProviders(c *core.Collection, change func(string) (string, error)) ([]core.OAuth2ProviderConfig, error) {
	out := slices.Clone(c.OAuth2.Providers)
	for i := range out {
		if out[i].ClientSecret == "" {
			continue
		}
		secret, err := change(out[i].ClientSecret)
		if err != nil {
			return nil, fmt.Errorf("provider %s of collection %s: %w", out[i].Name, c.Name, err)
		}
		out[i].ClientSecret = secret
	}
	return out, nil
}

// bindProviders has client secrets encrypted whenever a collection is stored.
func bindProviders(app core.App, keeper *secrets.Keeper) {
	seal := func(e *core.CollectionEvent) error {
		if !e.Collection.IsAuth() || len(e.Collection.OAuth2.Providers) == 0 {
			return e.Next()
		}
		keys, err := keeper.Keys(purposeSettings)
		if err != nil {
			return err
		}
		all := keys.All()
		e.Collection.OAuth2.Providers, err = withProviders(e.Collection, func(secret string) (string, error) { return sealProvider(secret, all) })
		if err != nil {
			return err
		}
		return e.Next()
	}
	app.OnCollectionCreateExecute().Bind(handler("mamba.providers.create", first, seal))
	app.OnCollectionUpdateExecute().Bind(handler("mamba.providers.update", first, seal))
}

// encryptProviders stores the collections anew whose client secrets are in clear or under an older key.
func encryptProviders(app core.App, keeper *secrets.Keeper) error {
	keys, err := keeper.Keys(purposeSettings)
	if err != nil {
		return err
	}
	all := keys.All()
	list, err := app.FindAllCollections(core.CollectionTypeAuth)
	if err != nil {
		return fmt.Errorf("list the collections of accounts: %w", err)
	}
	for _, c := range list {
		after, err := withProviders(c, func(secret string) (string, error) { return sealProvider(secret, all) })
		if err != nil {
			return err
		}
		if slices.EqualFunc(after, c.OAuth2.Providers, func(a, b core.OAuth2ProviderConfig) bool { return a.ClientSecret == b.ClientSecret }) {
			continue
		}
		c.OAuth2.Providers = after
		if err := app.Save(c); err != nil {
			return fmt.Errorf("encrypt the client secrets of collection %s: %w", c.Name, err)
		}
	}
	return nil
}

// opened is the app for a request that needs client secrets.
type opened struct {
	core.App
	keys func() ([][]byte, error)
}

// FindCachedCollectionByNameOrId returns a copy of the collection whose client secrets are open.
func (o *opened) FindCachedCollectionByNameOrId(name string) (*core.Collection, error) { //nolint:staticcheck // core.App's name
	c, err := o.App.FindCachedCollectionByNameOrId(name)
	if err != nil || !c.IsAuth() || len(c.OAuth2.Providers) == 0 {
		return c, err
	}
	keys, err := o.keys()
	if err != nil {
		return nil, err
	}
	out := *c
	out.OAuth2.Providers, err = withProviders(c, func(secret string) (string, error) { return openProvider(secret, keys) })
	return &out, err
}

// openProviders has the request by which somebody signs in at a provider find the client secret open.
func (p *Panel) openProviders(e *core.RequestEvent) error {
	if e.Request.Pattern != "POST /api/collections/{collection}/auth-with-oauth2" {
		return e.Next()
	}
	e.App = &opened{App: e.App, keys: func() ([][]byte, error) {
		keys, err := p.Secrets.Keys(purposeSettings)
		if err != nil {
			return nil, err
		}
		return keys.All(), nil
	}}
	return e.Next()
}
