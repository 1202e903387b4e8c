package bpmsoft

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

// checkTemplate finds what would fail when a template runs: names that do not
// exist, tables that are not there, functions called with what they do not
// take. Running it on samples alone would miss those in branches that no sample
// enters. It follows the types through the template; where it cannot tell one,
// asking that value for a field is a fault.
func checkTemplate(t *template.Template, lookups map[string]map[string]string) error {
	c := &checker{lookups: lookups, functions: functions(lookups)}
	for _, one := range t.Templates() {
		if one.Tree == nil {
			continue
		}
		c.variables = []variable{{"$", reflect.TypeFor[view]()}}
		c.body(one.Root, reflect.TypeFor[view]())
	}
	return errors.Join(c.faults...)
}

type checker struct {
	lookups   map[string]map[string]string
	functions template.FuncMap
	variables []variable // the innermost last
	faults    []error
}

// variable is a template's variable; its type is nil where it cannot be told.
type variable struct {
	name string
	kind reflect.Type
}

func (c *checker) fault(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if !slices.ContainsFunc(c.faults, func(e error) bool { return e.Error() == err.Error() }) {
		c.faults = append(c.faults, err)
	}
}

// body checks a list of nodes. dot is the type of the dot, nil where it cannot
// be told.
func (c *checker) body(list *parse.ListNode, dot reflect.Type) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			c.pipe(n.Pipe, dot)
		case *parse.IfNode:
			c.branch(&n.BranchNode, dot, func(reflect.Type) reflect.Type { return dot })
		case *parse.WithNode:
			c.branch(&n.BranchNode, dot, func(kind reflect.Type) reflect.Type { return kind })
		case *parse.RangeNode:
			c.branch(&n.BranchNode, dot, c.element)
		case *parse.TemplateNode:
			c.fault("one template cannot call another here")
		}
	}
}

// branch checks both bodies of a control structure; inside gives the dot of the
// first from the type of the pipeline. Variables of it end with it.
func (c *checker) branch(n *parse.BranchNode, dot reflect.Type, inside func(reflect.Type) reflect.Type) {
	depth := len(c.variables)
	kind := c.pipe(n.Pipe, dot)
	body := inside(kind)
	if n.NodeType == parse.NodeRange {
		// range assigns elements, and with two variables their index first.
		for i, v := range n.Pipe.Decl {
			element := body
			if len(n.Pipe.Decl) == 2 && i == 0 {
				element = reflect.TypeFor[int]()
			}
			c.assign(v.Ident[0], element, n.Pipe.IsAssign)
		}
	}
	opened := len(c.variables)
	c.body(n.List, body)
	c.variables = c.variables[:opened]
	c.body(n.ElseList, dot)
	c.variables = c.variables[:depth]
}

// element is what range goes over.
func (c *checker) element(kind reflect.Type) reflect.Type {
	switch {
	case kind == nil:
		return nil
	case kind.Kind() == reflect.Slice:
		return kind.Elem()
	}
	c.fault("range goes over a list, not over a %s", kind.Kind())
	return nil
}

func (c *checker) assign(name string, kind reflect.Type, assigned bool) {
	if !assigned {
		c.variables = append(c.variables, variable{name, kind})
		return
	}
	for i := len(c.variables) - 1; i >= 0; i-- {
		if c.variables[i].name == name {
			if c.variables[i].kind != kind {
				// What it is would depend on the way taken.
				c.fault("%s is set to a value of another kind", name)
			}
			return
		}
	}
}

// pipe checks a pipeline and gives its type, nil where that cannot be told.
func (c *checker) pipe(p *parse.PipeNode, dot reflect.Type) reflect.Type {
	if p == nil {
		return nil
	}
	var kind reflect.Type
	for i, command := range p.Cmds {
		kind = c.command(command, dot, i > 0, kind)
	}
	for _, v := range p.Decl {
		c.assign(v.Ident[0], kind, p.IsAssign)
	}
	return kind
}

// command checks one step of a pipeline; last is the type of the one before,
// which is its last argument if it is piped.
func (c *checker) command(n *parse.CommandNode, dot reflect.Type, piped bool, last reflect.Type) reflect.Type {
	name, ok := n.Args[0].(*parse.IdentifierNode)
	if !ok {
		if piped || len(n.Args) > 1 {
			c.fault("%s is no function", n.Args[0])
		}
		return c.operand(n.Args[0], dot)
	}
	args := make([]reflect.Type, 0, len(n.Args))
	for _, arg := range n.Args[1:] {
		args = append(args, c.operand(arg, dot))
	}
	if piped {
		args = append(args, last)
	}
	if name.Ident == "lookup" && len(n.Args) > 1 {
		if table, ok := n.Args[1].(*parse.StringNode); ok && c.lookups[table.Text] == nil {
			c.fault("there is no table %q under lookups", table.Text)
		}
	}
	return c.result(name.Ident, args)
}

// result checks a function's arguments and gives the type of what it returns.
func (c *checker) result(name string, args []reflect.Type) reflect.Type {
	own := c.functions[name]
	if own == nil {
		return builtinResult(name, args)
	}
	f := reflect.TypeOf(own)
	fixed := f.NumIn()
	if f.IsVariadic() {
		fixed--
	}
	if len(args) < fixed || len(args) > fixed && !f.IsVariadic() {
		c.fault("%s takes %d arguments, not %d", name, fixed, len(args))
		return f.Out(0)
	}
	for i, arg := range args {
		want := f.In(min(i, f.NumIn()-1))
		if f.IsVariadic() && i >= fixed {
			want = want.Elem()
		}
		if arg != nil && !arg.AssignableTo(want) {
			c.fault("%s: argument %d is a %s where a %s is wanted", name, i+1, arg, want)
		}
	}
	return f.Out(0)
}

// builtinResult is what the functions of the language return.
func builtinResult(name string, args []reflect.Type) reflect.Type {
	switch name {
	case "and", "or": // one of the arguments
		for _, arg := range args {
			if arg != args[0] {
				return nil
			}
		}
		if len(args) > 0 {
			return args[0]
		}
	case "index":
		if len(args) == 2 && args[0] != nil && args[0].Kind() == reflect.Slice {
			return args[0].Elem()
		}
	case "slice":
		if len(args) > 0 {
			return args[0]
		}
	case "not", "eq", "ne", "lt", "le", "gt", "ge":
		return reflect.TypeFor[bool]()
	case "len":
		return reflect.TypeFor[int]()
	case "html", "js", "print", "printf", "println", "urlquery":
		return reflect.TypeFor[string]()
	}
	return nil
}

// operand gives the type of a value, nil where it cannot be told.
func (c *checker) operand(n parse.Node, dot reflect.Type) reflect.Type {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.FieldNode:
		return c.path(dot, n.Ident)
	case *parse.VariableNode:
		for _, v := range slices.Backward(c.variables) {
			if v.name == n.Ident[0] {
				return c.path(v.kind, n.Ident[1:])
			}
		}
	case *parse.ChainNode:
		return c.path(c.operand(n.Node, dot), n.Field)
	case *parse.PipeNode:
		return c.pipe(n, dot)
	case *parse.IdentifierNode: // a function as an argument, called without any
		return c.result(n.Ident, nil)
	case *parse.StringNode:
		return reflect.TypeFor[string]()
	case *parse.BoolNode:
		return reflect.TypeFor[bool]()
	case *parse.NumberNode:
		if n.IsInt {
			return reflect.TypeFor[int]()
		}
	}
	return nil
}

// path follows a chain of fields through a type.
func (c *checker) path(t reflect.Type, names []string) reflect.Type {
	for i, name := range names {
		if t == nil {
			c.fault("what .%s is asked of cannot be told before it runs", strings.Join(names[i:], "."))
			return nil
		}
		if t.Kind() == reflect.Struct {
			if f, ok := t.FieldByName(name); ok && f.IsExported() {
				t = f.Type
				continue
			}
		}
		c.fault("there is no .%s", strings.Join(names, "."))
		return nil
	}
	return t
}
