//! The source files of a crate: their modules, imports, macros and functions, as the compiler sees them outside of tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::Visit;

/// A module path, such as `["push", "send", "nar"]`; the root of the crate is empty.
pub(crate) type Module = Vec<String>;

/// A source file.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The file, relative to `src`, such as `push/send/nar.rs`.
    pub(crate) file: String,
    /// The size in bytes.
    pub(crate) size: usize,
    /// The paths that the file names: in `use` items and in code, with `crate`, `self` and `super` resolved to the
    /// module path in the first element's place (see [`Named`]).
    pub(crate) named: Vec<Named>,
    /// The names that the file re-exports, each with its path.
    pub(crate) exports: BTreeMap<String, Vec<String>>,
    /// The macros that the file calls.
    pub(crate) macros: Vec<String>,
    /// The functions with their numbers of lines.
    pub(crate) functions: Vec<(String, usize)>,
}

/// A path that a file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    /// A path within the crate.
    Inside(Vec<String>),
    /// A path that begins with the name of another crate, or of an item in scope.
    Outside(Vec<String>),
}

/// Reads all modules of the crate whose root is `src/lib.rs`.
pub(crate) fn read_crate(src: &Path) -> BTreeMap<Module, Source> {
    let mut modules = BTreeMap::new();
    let root = if src.join("lib.rs").exists() { "lib.rs" } else { "main.rs" };
    read_module(src, root, &Vec::new(), &mut modules);
    modules
}

fn read_module(src: &Path, file: &str, module: &Module, modules: &mut BTreeMap<Module, Source>) {
    let text = fs::read_to_string(src.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let (source, children) = parse(file, &text, module);
    modules.insert(module.clone(), source);
    let folder = match file.rsplit_once('/') {
        _ if file == "lib.rs" || file == "main.rs" => String::new(),
        Some((folder, "mod.rs")) => format!("{folder}/"),
        _ => format!("{}/", file.trim_end_matches(".rs")),
    };
    for child in children {
        let flat = format!("{folder}{child}.rs");
        let nested = format!("{folder}{child}/mod.rs");
        let file = if src.join(&flat).exists() { flat } else { nested };
        let mut path = module.clone();
        path.push(child);
        read_module(src, &file, &path, modules);
    }
}

/// Parses a file. The result holds the names of the modules that it declares, too. Code under `#[cfg(test)]` and under a
/// `cfg` that names `test` or `fuzzing` does not count.
pub(crate) fn parse(file: &str, text: &str, module: &Module) -> (Source, Vec<String>) {
    let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let source = Source { file: file.to_owned(), size: text.len(), ..Source::default() };
    let mut reader = Reader { module, source, children: Vec::new() };
    reader.visit_file(&parsed);
    (reader.source, reader.children)
}

struct Reader<'a> {
    module: &'a Module,
    source: Source,
    children: Vec<String>,
}

impl Reader<'_> {
    /// Resolves `crate`, `self` and `super` at the start of a path.
    fn resolve(&self, path: Vec<String>) -> Named {
        let mut base = match path.first().map(String::as_str) {
            Some("crate") => return Named::Inside(path[1..].to_vec()),
            Some("self" | "super") => self.module.clone(),
            _ => return Named::Outside(path),
        };
        let mut rest = path.as_slice();
        while let Some((first, others)) =
            rest.split_first().filter(|(first, _)| *first == "self" || *first == "super")
        {
            if first == "super" {
                base.pop();
            }
            rest = others;
        }
        base.extend(rest.iter().cloned());
        Named::Inside(base)
    }

    fn name(&mut self, path: Vec<String>) {
        let named = match self.resolve(path) {
            // A module that this file declares needs no `self`.
            Named::Outside(path) if path.first().is_some_and(|first| self.children.contains(first)) => {
                Named::Inside(self.module.iter().cloned().chain(path).collect())
            }
            named => named,
        };
        self.source.named.push(named);
    }

    fn function(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        self.source.functions.push((name.to_string(), span.end().line - span.start().line + 1));
    }
}

/// The paths of a `use` tree, each with the name that it gives to its last element.
fn leaves(tree: &syn::UseTree, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let with = |name: &syn::Ident| prefix.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
    match tree {
        syn::UseTree::Path(path) => leaves(&path.tree, &with(&path.ident), found),
        syn::UseTree::Name(name) if name.ident == "self" => {
            found.push((prefix.to_vec(), prefix.last().cloned().unwrap_or_default()));
        }
        syn::UseTree::Name(name) => found.push((with(&name.ident), name.ident.to_string())),
        syn::UseTree::Rename(rename) => found.push((with(&rename.ident), rename.rename.to_string())),
        syn::UseTree::Glob(_) => found.push((prefix.to_vec(), String::new())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, prefix, found)),
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is = |name: &str| attribute.path().is_ident(name);
        let text = || match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        is("test")
            || (is("cfg")
                && (text().contains("test") || text().contains("fuzzing"))
                && !text().starts_with("not"))
    })
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_for_tests(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        match &item.content {
            None => self.children.push(item.ident.to_string()),
            Some(_) => syn::visit::visit_item_mod(self, item),
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        leaves(&item.tree, &[], &mut found);
        for (path, name) in found {
            if !matches!(item.vis, syn::Visibility::Inherited) {
                self.source.exports.insert(name, path.clone());
            }
            self.name(path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.name(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let name = item.path.segments.last().map(|segment| segment.ident.to_string());
        self.source.macros.extend(name);
        // The arguments of most macros are expressions.
        let parser = syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        if let Ok(arguments) = item.parse_body_with(parser) {
            arguments.iter().for_each(|argument| self.visit_expr(argument));
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, item.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            self.function(&item.sig.ident, item.span());
            syn::visit::visit_impl_item_fn(self, item);
        }
    }
}
