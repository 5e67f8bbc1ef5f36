//! What a module's items name: imports, paths, also those in macros, and the sizes of its functions.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::Visit;

/// One name that a `use` declaration brings in.
#[derive(Debug)]
pub(crate) struct Import {
    /// As it is written, `crate`, `self` and `super` included.
    pub(crate) path: Vec<String>,
    /// The name here; none for `*`.
    pub(crate) name: Option<String>,
}

/// Collects what a module's items say.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) imports: Vec<Import>,
    pub(crate) mentions: BTreeSet<Vec<String>>,
    pub(crate) definitions: BTreeSet<String>,
    /// Name, lines, parameters.
    pub(crate) functions: Vec<(String, usize, usize)>,
    pub(crate) public_items: usize,
}

impl Reader {
    fn define(&mut self, name: &syn::Ident, visibility: &syn::Visibility) {
        self.definitions.insert(name.to_string());
        self.count(visibility);
    }

    fn count(&mut self, visibility: &syn::Visibility) {
        self.public_items += usize::from(matches!(visibility, syn::Visibility::Public(_)));
    }

    fn measure(&mut self, signature: &syn::Signature, whole: proc_macro2::Span) {
        let lines = whole.end().line + 1 - signature.span().start().line;
        self.functions.push((signature.ident.to_string(), lines, signature.inputs.len()));
    }

    fn import(&mut self, tree: &syn::UseTree, mut before: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before);
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                let last = before.last().cloned();
                self.imports.push(Import { path: before, name: last });
            }
            syn::UseTree::Name(name) => {
                before.push(name.ident.to_string());
                self.imports.push(Import { path: before, name: Some(name.ident.to_string()) });
            }
            syn::UseTree::Rename(renamed) => {
                if renamed.ident != "self" {
                    before.push(renamed.ident.to_string());
                }
                self.imports.push(Import { path: before, name: Some(renamed.rename.to_string()) });
            }
            syn::UseTree::Glob(_) => self.imports.push(Import { path: before, name: None }),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before.clone());
                }
            }
        }
    }

    /// Every `a::b` in the tokens of a macro.
    fn scan(&mut self, tokens: TokenStream) {
        let mut todo = vec![tokens];
        while let Some(tokens) = todo.pop() {
            let mut path: Vec<String> = Vec::new();
            let mut colons = 0;
            for token in tokens {
                match token {
                    TokenTree::Ident(name) => {
                        if colons != 2 {
                            self.mention(std::mem::take(&mut path));
                        }
                        path.push(name.to_string());
                        colons = 0;
                    }
                    TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
                    other => {
                        self.mention(std::mem::take(&mut path));
                        colons = 0;
                        if let TokenTree::Group(group) = other {
                            todo.push(group.stream());
                        }
                    }
                }
            }
            self.mention(path);
        }
    }

    fn mention(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.mentions.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, Vec::new());
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.define(&item.sig.ident, &item.vis);
        self.measure(&item.sig, item.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.count(&item.vis);
        self.measure(&item.sig, item.span());
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.measure(&item.sig, item.span());
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.define(&item.ident, &item.vis);
        syn::visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.define(&item.ident, &item.vis);
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.define(&item.ident, &item.vis);
        syn::visit::visit_item_trait(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.define(&item.ident, &item.vis);
        syn::visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.define(&item.ident, &item.vis);
        syn::visit::visit_item_static(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.define(&item.ident, &item.vis);
        syn::visit::visit_item_type(self, item);
    }

    /// What a macro stands for is named by whoever calls it.
    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if !item.mac.path.is_ident("macro_rules") {
            syn::visit::visit_item_macro(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.mention(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        // Its own name says nothing: a macro that is exported stands at the crate's root, wherever it is written.
        self.scan(called.tokens.clone());
    }
}

/// Whether something stands under `#[cfg(test)]`.
pub(crate) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}
