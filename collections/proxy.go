package collections

import (
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
)

// proxy is a pointer to a generated record proxy.
type proxy[T any] interface {
	*T
	core.RecordProxy
}

func newProxy[T any, P proxy[T]](app core.App, collection string) (P, error) {
	c, err := app.FindCachedCollectionByNameOrId(collection)
	if err != nil {
		return nil, err
	}
	return Wrap[T, P](core.NewRecord(c)), nil
}

func findProxy[T any, P proxy[T]](app core.App, collection, id string) (P, error) {
	r, err := app.FindRecordById(collection, id)
	if err != nil {
		return nil, err
	}
	return Wrap[T, P](r), nil
}

// Wrap puts a record into its typed proxy.
func Wrap[T any, P proxy[T]](r *core.Record) P {
	p := P(new(T))
	p.SetProxyRecord(r)
	return p
}

// One returns the only or first row of a collection that matches, sql.ErrNoRows when there is none.
func One[T any, P proxy[T]](app core.App, collection string, where ...dbx.Expression) (P, error) {
	p := P(new(T))
	q := app.RecordQuery(collection).Limit(1)
	for _, w := range where {
		q.AndWhere(w)
	}
	if err := q.One(p); err != nil {
		return nil, err
	}
	return p, nil
}

// Every returns the rows of a collection that match, in the given order ("status, created DESC"), at most
// limit (0: all of them).
func Every[T any, P proxy[T]](app core.App, collection, order string, limit int64, where ...dbx.Expression) ([]P, error) {
	q := app.RecordQuery(collection)
	for _, w := range where {
		q.AndWhere(w)
	}
	if order != "" {
		for _, column := range strings.Split(order, ",") {
			q.AndOrderBy(strings.TrimSpace(column))
		}
	}
	if limit > 0 {
		q.Limit(limit)
	}
	var out []P
	return out, q.All(&out)
}
