package diag

import (
	"strings"
	"unicode/utf8"
)

// maxDistance is how far a suggestion may be from what was written: two
// slips of the finger; beyond that a guess misleads more than it helps.
const maxDistance = 2

// Suggest returns the candidate nearest to word within an edit distance of two
// (insert, delete, replace, swap of neighbours; case is ignored), the first in
// the alphabet among equals, or "". Words shorter than four characters allow
// one edit only, so that "any" is not offered for "udp".
func Suggest(word string, candidates []string) string {
	limit := maxDistance
	if utf8.RuneCountInString(word) < 4 {
		limit = 1
	}
	w := []rune(strings.ToLower(word))
	best, bestDistance := "", limit+1
	for _, c := range candidates {
		if n := utf8.RuneCountInString(c); n > len(w)+limit || n < len(w)-limit {
			continue
		}
		d := distance(w, []rune(strings.ToLower(c)))
		if d >= max(len(w), utf8.RuneCountInString(c)) {
			continue // not one character in common
		}
		if c != word && (d < bestDistance || d == bestDistance && d <= limit && c < best) {
			best, bestDistance = c, d
		}
	}
	return best
}

// DidYouMean returns the help text for a misspelt word, or "".
func DidYouMean(word string, candidates []string) string {
	if s := Suggest(word, candidates); s != "" {
		return "did you mean `" + s + "`?"
	}
	return ""
}

// distance is the optimal string alignment distance: Damerau-Levenshtein in
// which no part is edited twice.
func distance(a, b []rune) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range a {
		row[0] = i + 1
		for j := range b {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
