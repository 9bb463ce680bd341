package lsp

import (
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// find returns a document, what is known of it, and the name at a position, nil
// where there is none.
func (s *server) find(p positionParams) (*document, *knowledge, *occurrence, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, nil, nil, err
	}
	a := s.analyse(d)
	return d, a, a.symbols.at(d.text.offset(p.Position)), nil
}

func (s *server) definition(p positionParams) (any, error) {
	d, a, u, err := s.find(p)
	if err != nil || u == nil {
		return nil, err
	}
	target := a.symbols.resolve(u.key)
	if target == nil {
		return nil, nil
	}
	if target.file == d.name {
		return location{d.uri, d.text.rangeOfSpan(target.at)}, nil
	}
	return s.location(a, diag.Span{File: target.file, Start: target.at.Start, End: target.at.End}), nil
}

func (s *server) references(p referenceParams) (any, error) {
	d, a, u, err := s.find(p.positionParams)
	if err != nil || u == nil {
		return nil, err
	}
	list := []location{}
	for _, o := range a.symbols.occurrences(u.key) {
		if !o.declares || p.Context.IncludeDeclaration {
			list = append(list, location{d.uri, d.text.rangeOfSpan(o.at)})
		}
	}
	return list, nil
}

func (s *server) prepareRename(p positionParams) (any, error) {
	d, a, u, err := s.find(p)
	switch {
	case err != nil:
		return nil, err
	case u == nil:
		return nil, failed("no name stands here")
	}
	if err := renamable(d, a, u); err != nil {
		return nil, err
	}
	return map[string]any{"range": d.text.rangeOfSpan(u.at), "placeholder": u.name}, nil
}

// renamable says why a name can't be renamed in this file.
func renamable(d *document, a *knowledge, u *occurrence) error {
	if a.AST.Partial || a.AST.Lost {
		return failed("a part of the file can't be read: mend that first")
	}
	if target := a.symbols.resolve(u.key); target == nil && len(a.AST.Imports) > 0 || target != nil && target.file != d.name {
		return failed("%s is declared in another file", diag.Quote(u.name))
	}
	for _, o := range a.symbols.occurrences(u.key) {
		if strings.Trim(d.text.slice(o.at.Start, o.at.End), `"'`) != u.name {
			return failed("line %d spells %s in another way", d.text.position(o.at.Start).Line+1, diag.Quote(u.name))
		}
	}
	return nil
}

func (s *server) rename(p renameParams) (any, error) {
	d, a, u, err := s.find(p.positionParams)
	switch {
	case err != nil:
		return nil, err
	case u == nil:
		return nil, failed("no name stands here")
	}
	if err := renamable(d, a, u); err != nil {
		return nil, err
	}
	meaning := a.symbols.meaning(u.key)
	if err := acceptable(a, meaning, p.NewName); err != nil {
		return nil, err
	}
	edits := []textEdit{}
	for _, o := range a.symbols.occurrences(u.key) {
		edits = append(edits, textEdit{d.text.rangeOfSpan(o.at), p.NewName})
	}
	return workspaceEdit{map[string][]textEdit{d.uri: edits}}, nil
}

// maxName bounds names, as Check does.
const maxName = 64

// acceptable says why a new name can't be had.
func acceptable(a *knowledge, k key, name string) error {
	switch {
	case !rules.IsName(name) || len(name) > maxName:
		return failed("%s is no name: letters, digits, _ and -, a letter or _ first, %d characters at most", diag.Quote(name), maxName)
	case k.kind == conditionKind && reserved(name):
		return failed("a condition can't be called %s: the word has a meaning", diag.Quote(name))
	}
	// Routes, groups and uplinks share a name space where a route is meant.
	spaces := []kind{k.kind}
	switch k.kind {
	case routeKind, groupKind, uplinkKind:
		spaces = []kind{routeKind, groupKind, uplinkKind}
	}
	for _, space := range spaces {
		if d := a.symbols.byKey[key{space, name}]; d != nil {
			return failed("a %s is called %s already", space, diag.Quote(name))
		}
	}
	return nil
}

// symbolKinds are the protocol's icons of declarations.
var symbolKinds = map[kind]int{
	setKind: symbolArray, uplinkKind: symbolInterface, routeKind: symbolField, groupKind: symbolModule,
	throttleKind: symbolConstant, quotaKind: symbolVariable, scheduleKind: symbolEvent, conditionKind: symbolOperator,
	ruleKind: symbolFunction,
}

func (s *server) documentSymbols(p documentParams) (any, error) {
	d, err := s.document(p.TextDocument.URI)
	if err != nil {
		return nil, err
	}
	list := []documentSymbol{}
	for _, o := range s.analyse(d).symbols.own {
		whole := o.span
		whole.Start, whole.End = min(whole.Start, o.at.Start), max(whole.End, o.at.End)
		name := o.name
		if strings.TrimSpace(name) == "" {
			continue // the protocol forbids it
		}
		list = append(list, documentSymbol{
			Name: name, Detail: o.kind.String(), Kind: symbolKinds[o.kind],
			Range: d.text.rangeOfSpan(whole), SelectionRange: d.text.rangeOfSpan(o.at),
		})
	}
	return list, nil
}
