package blueprints

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"path"
	"strings"
)

// svgElements are what an icon may be drawn with. Whatever can run, load or embed is not among them
// (script, foreignObject, image, use, style, animate…): the panel serves icons from its own origin.
var svgElements = map[string]bool{
	"svg": true, "g": true, "defs": true, "title": true, "desc": true, "path": true, "rect": true, "circle": true,
	"ellipse": true, "line": true, "polyline": true, "polygon": true, "linearGradient": true, "radialGradient": true,
	"stop": true, "clipPath": true, "mask": true,
}

const svgNamespace = "http://www.w3.org/2000/svg"

// IconType is the media type that an icon of that name has, empty when there are none of such names.
func IconType(name string) string {
	switch path.Ext(name) {
	case ".svg":
		return "image/svg+xml"
	case ".png":
		return "image/png"
	}
	return ""
}

// checkIcon returns the media type of an icon that is safe to serve.
func checkIcon(name string, data []byte) (string, error) {
	kind := IconType(name)
	switch kind {
	case "image/svg+xml":
		return kind, checkSVG(data)
	case "image/png":
		config, err := png.DecodeConfig(bytes.NewReader(data))
		if err != nil {
			return "", fmt.Errorf("is not a PNG: %w", err)
		}
		if config.Width > MaxIconPixels || config.Height > MaxIconPixels {
			return "", fmt.Errorf("is %d×%d; at most %d×%d are allowed", config.Width, config.Height, MaxIconPixels, MaxIconPixels)
		}
		return kind, nil
	}
	return "", errors.New("must end in .svg or .png")
}

func checkSVG(data []byte) error {
	decoder := xml.NewDecoder(bytes.NewReader(data))
	elements, depth := 0, 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("is not SVG: %w", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			elements, depth = elements+1, depth+1
			if depth > 32 || elements > 2000 {
				return errors.New("is too large a drawing for an icon")
			}
			if elements == 1 && t.Name.Local != "svg" {
				return errors.New("is not SVG: its first element must be <svg>")
			}
			if err := checkElement(t); err != nil {
				return err
			}
		case xml.EndElement:
			depth--
		case xml.Directive:
			return errors.New("holds a <!DOCTYPE …>, which an icon must not; remove it")
		case xml.ProcInst:
			if t.Target != "xml" {
				return fmt.Errorf("holds <?%s …?>, which an icon must not; remove it", t.Target)
			}
		}
	}
	if elements == 0 {
		return errors.New("is empty")
	}
	return nil
}

func checkElement(e xml.StartElement) error {
	if e.Name.Space != svgNamespace || !svgElements[e.Name.Local] {
		return fmt.Errorf("holds <%s>, which an icon must not; draw with paths and shapes, and xmlns=%q", e.Name.Local, svgNamespace)
	}
	for _, a := range e.Attr {
		name, value := strings.ToLower(a.Name.Local), strings.ToLower(strings.ReplaceAll(a.Value, " ", ""))
		loads := strings.Contains(strings.ReplaceAll(value, "url(#", ""), "url(")
		if strings.HasPrefix(name, "on") || name == "href" || name == "style" || name == "base" || loads || strings.Contains(value, "javascript:") {
			return fmt.Errorf("has the attribute %s on <%s>, which an icon must not; remove it", a.Name.Local, e.Name.Local)
		}
	}
	return nil
}
