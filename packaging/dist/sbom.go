package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// module is a part that the programs were linked from: a Go module, or Go itself.
type module struct {
	path, version, sum string
	licence            string // its SPDX identifier
	text               string // the licence
}

// modules reads from the programs what is in them, and its licences from the module cache.
func modules(programs []file) ([]module, error) {
	found := map[string]module{}
	for _, p := range programs {
		info, err := buildinfo.Read(bytes.NewReader(p.data))
		if err != nil {
			return nil, fmt.Errorf("read what %s was built from: %w", p.path, err)
		}
		found["std"] = module{path: "std", version: strings.TrimPrefix(info.GoVersion, "go")}
		for _, d := range info.Deps {
			if d.Replace != nil {
				d = d.Replace
			}
			found[d.Path] = module{path: d.Path, version: d.Version, sum: d.Sum}
		}
	}
	var list []module
	for _, m := range found {
		if err := m.readLicence(); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return cmp.Compare(a.path, b.path) })
	return list, nil
}

func (m *module) readLicence() error {
	args := []string{"list", "-m", "-f", "{{.Dir}}", m.path}
	if m.path == "std" {
		args = []string{"env", "GOROOT"}
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return fmt.Errorf("find %s: %w", m.path, err)
	}
	dir := strings.TrimSpace(string(out))
	for _, pattern := range []string{"LICENSE*", "LICENCE*", "COPYING*", "NOTICE*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			m.text += string(text) + "\n"
		}
	}
	if m.licence = licence(m.text); m.licence == "" {
		return fmt.Errorf("the licence of %s in %s is not known here", m.path, dir)
	}
	return nil
}

// licence recognises the licences that our dependencies have, by their words.
func licence(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	var found []string
	for _, l := range []struct{ id, words string }{
		{"Apache-2.0", "Apache License, Version 2.0"},
		{"Apache-2.0", "Apache License Version 2.0"},
		{"MPL-2.0", "Mozilla Public License Version 2.0"},
		{"MIT", "Permission is hereby granted, free of charge"},
	} {
		if strings.Contains(text, l.words) && !slices.Contains(found, l.id) {
			found = append(found, l.id)
		}
	}
	if strings.Contains(text, "Redistribution and use in source and binary forms") {
		if strings.Contains(text, "Neither the name") || strings.Contains(text, "may be used to endorse") {
			found = append(found, "BSD-3-Clause")
		} else {
			found = append(found, "BSD-2-Clause")
		}
	}
	return strings.Join(found, " AND ")
}

// The parts of CycloneDX 1.5 that are used; https://cyclonedx.org/docs/1.5/json/.
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version,omitempty"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licenses   []license  `json:"licenses,omitempty"`
		PURL       string     `json:"purl,omitempty"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	license struct {
		Expression string `json:"expression"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn,omitempty"`
	}
)

// sbom lists what is in the programs.
func (r *release) sbom(arch string, programs []file, mods []module) ([]byte, error) {
	ours := fmt.Sprintf("pkg:golang/netpolicy.dev/netpolicy@v%s?goarch=%s&goos=linux", r.version, arch)
	b := bom{
		Format: "CycloneDX", Spec: "1.5", Version: 1,
		Metadata: metadata{
			Timestamp: r.at.Format("2006-01-02T15:04:05Z"),
			Component: component{
				Type: "application", Ref: ours, Name: "netpolicy", Version: r.version, PURL: ours,
				Licenses: []license{{"Apache-2.0"}},
			},
		},
	}
	var uses []string
	for _, m := range mods {
		c := component{
			Type: "library", Name: m.path, Version: m.version, PURL: "pkg:golang/" + m.path + "@" + m.version,
			Licenses: []license{{m.licence}},
		}
		c.Ref = c.PURL
		if m.sum != "" {
			c.Properties = []property{{"go.sum", m.sum}}
		}
		b.Components = append(b.Components, c)
		uses = append(uses, c.Ref)
	}
	id := sha256.New()
	for _, p := range programs {
		sum := sha256.Sum256(p.data)
		id.Write(sum[:])
		c := component{
			Type: "file", Ref: "file:" + p.path, Name: p.path, Version: r.version,
			Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sum)}},
		}
		b.Components = append(b.Components, c)
		b.Dependencies = append(b.Dependencies, dependency{c.Ref, uses})
	}
	b.Dependencies = append(b.Dependencies, dependency{Ref: ours, DependsOn: []string{"file:netpolicy", "file:netpolicyd"}})
	// A UUID of version 8 (RFC 9562, 5.8): made of the programs, not of chance.
	u := id.Sum(nil)
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	b.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(&b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
