package access

import (
	"net/http"
	"net/url"

	"github.com/pocketbase/pocketbase/core"
)

// originsOf knows the one site whose pages may have a browser change something by what it sends of itself. public is
// the address that people use; that of the request itself counts as well.
func originsOf(public string) *http.CrossOriginProtection {
	p := http.NewCrossOriginProtection()
	if u, err := url.Parse(public); err == nil && u.Scheme != "" && u.Host != "" {
		_ = p.AddTrustedOrigin(u.Scheme + "://" + u.Host) // fails for what is no origin, which is then not trusted
	}
	return p
}

// OwnOrigin is middleware for every route: what a browser is made to send by a page of another site changes nothing.
// A request with an Authorization header passes, because no other site's page can make a browser send one of ours; nor
// does it need a cookie. What comes with our cookie has to say that it comes from our own pages.
func (d *Access) OwnOrigin(e *core.RequestEvent) error {
	r := e.Request
	if r.Header.Get("Authorization") != "" {
		return e.Next()
	}
	err := d.origins.Check(r)
	if c, none := r.Cookie(RefreshCookie); err == nil && none == nil && c.Value != "" && unsafe(r.Method) && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		err = http.ErrNoCookie
	}
	if err != nil {
		return d.refuse(e, Forbidden("cross_origin", "This request came from another site, so it was not carried out. Programs send their token in the header Authorization, or the refresh token in the body.").Because(err))
	}
	return e.Next()
}

func unsafe(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}
