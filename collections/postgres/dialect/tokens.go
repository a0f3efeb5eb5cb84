package dialect

import "slices"

// tokens is a statement, or a part of one, while rules work on it.
type tokens []Token

// next is the index of the first token after i that is no space; -1 at the end.
func (t tokens) next(i int) int {
	for i++; i < len(t); i++ {
		if t[i].Kind != Space {
			return i
		}
	}
	return -1
}

// prev is the index of the last token before i that is no space; -1 at the beginning.
func (t tokens) prev(i int) int {
	for i--; i >= 0; i-- {
		if t[i].Kind != Space {
			return i
		}
	}
	return -1
}

// at is the token at i, or a Space for an index that next or prev did not find.
func (t tokens) at(i int) Token {
	if i < 0 || i >= len(t) {
		return Token{Kind: Space}
	}
	return t[i]
}

// closing is the index of the parenthesis that closes the one at i; -1 if none does.
func (t tokens) closing(i int) int {
	depth := 0
	for ; i < len(t); i++ {
		switch {
		case t[i].op("("):
			depth++
		case t[i].op(")"):
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// opening is the index of the parenthesis that the one at i closes; -1 if there is none.
func (t tokens) opening(i int) int {
	depth := 0
	for ; i >= 0; i-- {
		switch {
		case t[i].op(")"):
			depth++
		case t[i].op("("):
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// trim is t without the spaces around it.
func (t tokens) trim() tokens {
	first, last := t.next(-1), t.prev(len(t))
	if first < 0 {
		return nil
	}
	return t[first : last+1]
}

// visible are the tokens that are no spaces.
func (t tokens) visible() tokens {
	out := make(tokens, 0, len(t))
	for _, x := range t {
		if x.Kind != Space {
			out = append(out, x)
		}
	}
	return out
}

// list splits at the commas that are in no parenthesis.
func (t tokens) list() []tokens {
	var out []tokens
	depth, start := 0, 0
	for i := range t {
		switch {
		case t[i].op("("):
			depth++
		case t[i].op(")"):
			depth--
		case depth == 0 && t[i].op(","):
			out = append(out, t[start:i])
			start = i + 1
		}
	}
	return append(out, t[start:])
}

// has says whether a word is in t outside of parentheses.
func (t tokens) has(words ...string) bool { return t.find(0, words...) >= 0 }

// find is the index of the first of the words from i on at the depth of i; -1 if there is none
// before the end or before the parenthesis around i closes.
func (t tokens) find(i int, words ...string) int {
	depth := 0
	for ; i < len(t); i++ {
		switch {
		case t[i].op("("):
			depth++
		case t[i].op(")"):
			if depth--; depth < 0 {
				return -1
			}
		case depth == 0 && t[i].isAny(words...):
			return i
		}
	}
	return -1
}

// pattern is a shape of tokens. In its source $C stands for a column (`name` or `table`.`name`) and
// $S for a literal in single quotes; the same letter stands for the same column each time, so a
// pattern with one $C matches one column only.
type pattern tokens

func newPattern(source string) pattern { return pattern(tokens(Lex(source)).visible()) }

// match compares t from index i on, spaces left out. It returns what $C and $S stood for and the
// index after the last token, or ok false.
func (p pattern) match(t tokens, i int) (column, literal tokens, end int, ok bool) {
	for _, want := range p {
		if i < 0 || i >= len(t) {
			return nil, nil, 0, false
		}
		n := 1
		switch {
		case want.Kind == Param && want.Text == "$C":
			if n = columnAt(t, i); n == 0 || column != nil && !slices.Equal(column, t[i:i+n]) {
				return nil, nil, 0, false
			}
			column = t[i : i+n]
		case want.Kind == Param && want.Text == "$S":
			if t[i].Kind != String {
				return nil, nil, 0, false
			}
			if literal == nil {
				literal = t[i : i+1]
			}
		case want.Kind == Word && !t[i].is(want.Text), want.Kind != Word && t[i] != want:
			return nil, nil, 0, false
		}
		end = i + n
		if i = t.next(end - 1); i < 0 {
			i = len(t)
		}
	}
	return column, literal, end, true
}

// columnAt is the number of tokens of the column that begins at i; 0 if there is none.
func columnAt(t tokens, i int) int {
	name := func(i int) bool { k := t.at(i).Kind; return k == Quoted || k == Word }
	switch {
	case !name(i):
		return 0
	case t.at(i+1).op(".") && name(i+2):
		return 3
	}
	return 1
}
