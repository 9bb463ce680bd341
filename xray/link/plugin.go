package link

import "strings"

// maxOptions bounds the options of a plugin; v2ray-plugin has about twenty.
const maxOptions = 64

// Plugin is a SIP003 plugin of shadowsocks. Its zero value is none.
type Plugin struct {
	Name    string
	Options []PluginOption
}

// PluginOption is one option of a plugin; a flag has no value.
type PluginOption struct {
	Key   string
	Value Secret // a plugin's options can hold its password
	Flag  bool
}

// Get returns an option's value, and whether the option is there.
func (p Plugin) Get(key string) (string, bool) {
	for _, o := range p.Options {
		if o.Key == key {
			return o.Value.Reveal(), true
		}
	}
	return "", false
}

// ParsePlugin reads "name;key=value;flag", in which a backslash takes the meaning
// of the character behind it. It is false where there is no name.
func ParsePlugin(s string) (p Plugin, ok bool) {
	for i, part := range splitUnescaped(s, ';', -1) {
		key, value, found := part, "", false
		if kv := splitUnescaped(part, '=', 2); len(kv) == 2 {
			key, value, found = kv[0], kv[1], true
		}
		switch {
		case i == 0:
			p.Name = unescapePlugin(part)
		case part == "":
		case len(p.Options) == maxOptions:
			return Plugin{}, false
		default:
			p.Options = append(p.Options, PluginOption{Key: unescapePlugin(key), Value: Secret(unescapePlugin(value)), Flag: !found})
		}
	}
	return p, p.Name != ""
}

// String returns the plugin with its options hidden.
func (p Plugin) String() string {
	if len(p.Options) == 0 {
		return p.Name
	}
	return p.Name + ";" + mask
}

// Format returns what ParsePlugin reads, secrets and all.
func (p Plugin) Format() string {
	if p.Name == "" {
		return ""
	}
	if opts := p.FormatOptions(); opts != "" {
		return escapePlugin(p.Name) + ";" + opts
	}
	return escapePlugin(p.Name)
}

// FormatOptions is Format without the name.
func (p Plugin) FormatOptions() string {
	var b strings.Builder
	for i, o := range p.Options {
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteString(escapePlugin(o.Key))
		if !o.Flag {
			b.WriteByte('=')
			b.WriteString(escapePlugin(o.Value.Reveal()))
		}
	}
	return b.String()
}

var pluginEscapes = strings.NewReplacer(`\`, `\\`, `;`, `\;`, `=`, `\=`, `:`, `\:`)

func escapePlugin(s string) string { return pluginEscapes.Replace(s) }

func unescapePlugin(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// splitUnescaped splits at a separator that no backslash stands before, into n
// parts at most.
func splitUnescaped(s string, sep byte, n int) (parts []string) {
	from := 0
	for i := 0; i < len(s) && len(parts) != n-1; i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}
