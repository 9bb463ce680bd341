package analysis

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestBoxes compares operations on boxes with those on the sets of their points.
func TestBoxes(t *testing.T) {
	rng := rand.New(rand.NewPCG(*seed, 5))
	sizes := []int32{5, 7, 3}
	set := func(dim int) values {
		var list []span
		for range 1 + rng.IntN(3) {
			lo := rng.Int32N(sizes[dim])
			list = append(list, span{lo, lo + rng.Int32N(sizes[dim]-lo)})
		}
		return normal(list)
	}
	random := func() box {
		var b box
		for dim := range sizes {
			if rng.IntN(3) > 0 {
				b = append(b, side{dim: int32(dim), in: set(dim)})
			}
		}
		return b
	}
	has := func(b box, point [3]int32) bool {
		return !slices.ContainsFunc(b, func(s side) bool { return !s.in.has(point[s.dim]) })
	}
	meet := func(a, b side) values { return a.in.and(b.in) }
	var split, inside, apart int
	for range 5000 {
		a, b := random(), random()
		left := b.cutFrom(a, sizes)
		both, some := a.and(b, meet)
		all := true
		for x := range sizes[0] {
			for y := range sizes[1] {
				for z := range sizes[2] {
					p := [3]int32{x, y, z}
					n := 0
					for _, part := range left {
						if has(part, p) {
							n++
						}
					}
					want := 0
					if has(a, p) && !has(b, p) {
						want, all = 1, false
					}
					if n != want {
						t.Fatalf("%v without %v: %v is %d times in %v", a, b, p, n, left)
					}
					if in := has(a, p) && has(b, p); in != (some && has(both, p)) {
						t.Fatalf("%v and %v: %v in %v", a, b, p, both)
					}
				}
			}
		}
		if all != (len(left) == 0) {
			t.Fatalf("%v without %v: %v", a, b, left)
		}
		switch {
		case all:
			inside++
		case !some:
			apart++
		default:
			split++
		}
	}
	if split < 500 || inside < 500 || apart < 100 {
		t.Errorf("the boxes are too alike: %d split, %d inside, %d apart", split, inside, apart)
	}
}

// TestNames holds the order of names against what patterns match.
func TestNames(t *testing.T) {
	a := nameAxis()
	patterns := names("z.us", ".z.us", "*.z.us", "z-1.us", ".us", "*.a.z.us", "b.a.z.us")
	for i := range patterns {
		from, to := nameRun(&patterns[i])
		a.cut(from, to)
	}
	a.seal()
	for _, name := range []string{
		"us", "z.us", "zz.us", "z-1.us", "z-.us", "a.z.us", "b.a.z.us", "c.b.a.z.us", "c.a.z.us", "0.z.us", "z.us.org", "xus", "a.z-1.us", "y.us",
	} {
		at := a.at(nameKey(name))
		for i := range patterns {
			from, to := nameRun(&patterns[i])
			run := values(a.appendRun(nil, from, to))
			if got, want := run.has(at), patterns[i].Match(name); got != want {
				t.Errorf("%s in %s: %v, want %v", name, patterns[i], got, want)
			}
		}
		if back, ok := nameOf(nameKey(name)); !ok || back != name {
			t.Errorf("%s comes back as %q", name, back)
		}
	}
}
