package yaml

import "netpolicy.dev/netpolicy/rules"

// foreignActionKey is the help for an unknown key under action.
func foreignActionKey(item rules.Item) string { return foreignKey(actionKeyWords, item.Key.Text) }

// foreignWord is the help for an unknown word in a short string: one alone is
// mostly the name of a route.
func foreignWord(item rules.Item) string {
	if len(item.Args) > 0 {
		return foreignActionKey(item)
	}
	return foreignAction(item.Key.Text)
}

// actionWords reads "fallback(a, b), log": commas outside brackets and strings separate actions.
func actionWords(w rules.Word) []rules.Item {
	var items []rules.Item
	depth, start := 0, 0
	cut := func(end int) {
		var item *rules.Item
		for _, word := range w.Part(start, end).Split() {
			switch {
			case item == nil:
				items = append(items, rules.Item{Key: word, Span: word.Span})
				item = &items[len(items)-1]
			case !word.Quoted && (word.Text == "(" || word.Text == ")"):
				item.List = true
			default:
				item.Args = append(item.Args, word)
				item.Span.End = word.Span.End
			}
		}
		start = end + 1
	}
	for i := 0; i < len(w.Text); i++ {
		switch w.Text[i] {
		case '"':
			i = rules.QuoteEnd(w.Text, i)
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth <= 0 {
				cut(i)
			}
		}
	}
	cut(len(w.Text))
	if len(items) == 0 {
		items = append(items, rules.Item{Key: w, Span: w.Span})
	}
	return items
}
