//! `#[activities]`: the trait to implement, a proxy to call it through, and what joins a component's
//! `invoke` to an implementation.
//!
//! For `trait Inventory { async fn check(id: String) -> i64; }` it writes:
//! - the trait, its functions returning `impl Future<Output = Result<i64>>` and bound to sized
//!   implementers, which leaves `dyn Inventory` a valid type: the name under which proxies are made;
//! - `struct InventoryProxy` with `fn check(&self, id: String) -> Pending<i64>`;
//! - `impl Activities for dyn Inventory`, and a hidden table of names and entry points.

use crate::workflow::{name_of, plain};
use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::Parser;
use syn::{Attribute, Error, FnArg, Ident, ItemTrait, LitStr, Pat, Result, ReturnType, TraitItem, Type};

/// More than serde's tuples hold.
const ARGUMENTS_MAX: usize = 16;

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let task_queue = task_queue_of(arguments)?;
    let item: ItemTrait =
        syn::parse2(item).map_err(|error| Error::new(error.span(), "`#[activities]` stands on a `trait`"))?;
    if !item.generics.params.is_empty() || !item.supertraits.is_empty() {
        let message = "a trait of activities has neither generics nor supertraits: calls cross as JSON";
        return Err(Error::new_spanned(&item.ident, message));
    }
    let activities = item.items.iter().map(Activity::parse).collect::<Result<Vec<_>>>()?;
    let task_queue = match task_queue {
        Some(queue) => quote!(::core::option::Option::Some(#queue)),
        None => quote!(::core::option::Option::None),
    };

    let definition = definition(&item, &activities);
    let proxy = proxy(&item, &activities, &task_queue);
    let table = table(&item, &activities, &task_queue);
    Ok(quote!(#definition #proxy #table))
}

struct Activity<'a> {
    ident: &'a Ident,
    name: LitStr,
    /// Everything but `#[activity]`, documentation above all.
    attributes: Vec<&'a Attribute>,
    parameters: Vec<(&'a Ident, &'a Type)>,
    output: TokenStream,
}

impl<'a> Activity<'a> {
    fn parse(item: &'a TraitItem) -> Result<Self> {
        let TraitItem::Fn(function) = item else {
            return Err(Error::new_spanned(item, "a trait of activities holds only functions"));
        };
        let signature = &function.sig;
        let ident = &signature.ident;
        if signature.asyncness.is_none() {
            let message = format!("an activity is an `async fn`: write `async fn {ident}`");
            return Err(Error::new_spanned(signature.fn_token, message));
        }
        if !signature.generics.params.is_empty() {
            let message = "an activity cannot be generic: its arguments cross as JSON";
            return Err(Error::new_spanned(&signature.generics, message));
        }
        if let Some(body) = &function.default {
            let message = "no body here: whoever carries the activity out implements the trait";
            return Err(Error::new_spanned(body, message));
        }
        if ident == "with_options" {
            let message = "`with_options` is a method of every proxy: choose another name";
            return Err(Error::new_spanned(ident, message));
        }
        if signature.inputs.len() > ARGUMENTS_MAX {
            let message = format!("more than {ARGUMENTS_MAX} arguments: put them in a struct");
            return Err(Error::new_spanned(&signature.inputs, message));
        }
        let (renamed, attributes) = name_and_rest(&function.attrs)?;
        Ok(Self {
            ident,
            name: renamed.unwrap_or_else(|| LitStr::new(&plain(ident), ident.span())),
            attributes,
            parameters: signature.inputs.iter().map(parameter).collect::<Result<_>>()?,
            output: output(&signature.output)?,
        })
    }
}

fn task_queue_of(tokens: TokenStream) -> Result<Option<LitStr>> {
    let mut task_queue = None;
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("task_queue") {
            return Err(meta.error("expected `task_queue = \"…\"`"));
        }
        task_queue = Some(name_of(&meta.value()?.parse()?)?);
        Ok(())
    });
    parser.parse2(tokens)?;
    Ok(task_queue)
}

fn name_and_rest(attributes: &[Attribute]) -> Result<(Option<LitStr>, Vec<&Attribute>)> {
    let (mut name, mut rest) = (None, Vec::new());
    for attribute in attributes {
        if !attribute.path().is_ident("activity") {
            rest.push(attribute);
            continue;
        }
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("name") {
                return Err(meta.error("expected `name = \"…\"`"));
            }
            name = Some(name_of(&meta.value()?.parse()?)?);
            Ok(())
        })?;
    }
    Ok((name, rest))
}

fn parameter(input: &FnArg) -> Result<(&Ident, &Type)> {
    let FnArg::Typed(input) = input else {
        let message = "an activity has no `self`: every call stands alone, perhaps on another machine";
        return Err(Error::new_spanned(input, message));
    };
    let Pat::Ident(pattern) = &*input.pat else {
        return Err(Error::new_spanned(&input.pat, "an argument of an activity is a plain name"));
    };
    if let Type::Reference(reference) = &*input.ty {
        let message = "an activity owns its arguments, which cross as JSON: take them by value";
        return Err(Error::new_spanned(reference, message));
    }
    Ok((&pattern.ident, &input.ty))
}

fn output(output: &ReturnType) -> Result<TokenStream> {
    let ReturnType::Type(_, output) = output else { return Ok(quote!(())) };
    if let Type::Path(path) = &**output
        && path.path.segments.last().is_some_and(|last| last.ident == "Result")
    {
        let message = "declare what success yields: every activity can fail, so `Result` goes without saying";
        return Err(Error::new_spanned(output, message));
    }
    Ok(quote!(#output))
}

fn definition(item: &ItemTrait, activities: &[Activity<'_>]) -> TokenStream {
    let (attributes, vis, ident) = (&item.attrs, &item.vis, &item.ident);
    let functions = activities.iter().map(|Activity { ident, attributes, parameters, output, .. }| {
        let parameters = parameters.iter().map(|(name, ty)| quote!(#name: #ty));
        quote! {
            #(#attributes)*
            fn #ident(#(#parameters),*)
                -> impl ::core::future::Future<Output = ::backstitch_sdk::Result<#output>>
            where
                Self: ::core::marker::Sized;
        }
    });
    quote! {
        #(#attributes)*
        // A workflow that calls activities carries none of them out.
        #[allow(dead_code)]
        #vis trait #ident {
            #(#functions)*
        }
    }
}

fn proxy(item: &ItemTrait, activities: &[Activity<'_>], task_queue: &TokenStream) -> TokenStream {
    let (vis, ident) = (&item.vis, &item.ident);
    let proxy = format_ident!("{ident}Proxy", span = ident.span());
    let methods = activities.iter().map(|activity| {
        let Activity { ident, name, attributes, output, .. } = activity;
        let parameters = activity.parameters.iter().map(|(name, ty)| quote!(#name: #ty));
        let arguments = match activity.parameters.as_slice() {
            // `()` would be written as `null`.
            [] => quote!([(); 0]),
            some => {
                let names = some.iter().map(|(name, _)| name);
                quote!((#(#names,)*))
            }
        };
        quote! {
            #(#attributes)*
            #vis fn #ident(&self, #(#parameters),*) -> ::backstitch_sdk::Pending<#output> {
                ::backstitch_sdk::call_activity(#name, &#arguments, &self.options)
            }
        }
    });
    let doc = format!("Calls the activities of [`{ident}`] from a workflow.");
    quote! {
        #[doc = #doc]
        #[allow(dead_code)]
        #[derive(Debug, Clone)]
        #vis struct #proxy {
            options: ::backstitch_sdk::ActivityOptions,
        }

        #[allow(dead_code)]
        impl #proxy {
            #(#methods)*

            /// The same activities with other options.
            #[must_use]
            #vis fn with_options(&self, options: ::backstitch_sdk::ActivityOptions) -> Self {
                ::backstitch_sdk::proxy_activities::<dyn #ident>(options)
            }
        }

        impl ::backstitch_sdk::activity::Activities for dyn #ident {
            const TASK_QUEUE: ::core::option::Option<&'static str> = #task_queue;
            type Proxy = #proxy;

            fn proxy(options: ::backstitch_sdk::ActivityOptions) -> #proxy {
                #proxy { options }
            }
        }
    }
}

fn table(item: &ItemTrait, activities: &[Activity<'_>], task_queue: &TokenStream) -> TokenStream {
    let (vis, ident) = (&item.vis, &item.ident);
    let names = activities.iter().map(|activity| &activity.name);
    let arms = activities.iter().map(|Activity { ident, name, parameters, .. }| {
        let names: Vec<_> = parameters.iter().map(|(name, _)| name).collect();
        let types = parameters.iter().map(|(_, ty)| ty);
        let pattern = match parameters.as_slice() {
            [] => quote!([]: [(); 0]),
            _ => quote!((#(#names,)*): (#(#types,)*)),
        };
        quote! {
            #name => ::backstitch_sdk::__private::run_activity(#name, input, |#pattern| {
                Implementer::#ident(#(#names),*)
            }),
        }
    });
    quote! {
        #[allow(dead_code)]
        impl dyn #ident {
            #[doc(hidden)]
            #vis const fn __activity_table<Implementer: #ident>() -> ::backstitch_sdk::activity::ActivityTable {
                fn invoke<Implementer: #ident>(
                    name: &str,
                    input: &str,
                ) -> ::core::option::Option<::backstitch_sdk::Result<::std::string::String>> {
                    ::core::option::Option::Some(match name {
                        #(#arms)*
                        _ => return ::core::option::Option::None,
                    })
                }
                ::backstitch_sdk::activity::ActivityTable {
                    task_queue: #task_queue,
                    names: &[#(#names),*],
                    invoke: invoke::<Implementer>,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_write_instead() {
        for (item, expected) in [
            (
                quote!(
                    trait A {
                        fn check();
                    }
                ),
                "write `async fn check`",
            ),
            (
                quote!(
                    trait A {
                        async fn check(&self);
                    }
                ),
                "has no `self`",
            ),
            (
                quote!(
                    trait A {
                        async fn check(id: &str);
                    }
                ),
                "take them by value",
            ),
            (
                quote!(
                    trait A {
                        async fn check() -> Result<i64>;
                    }
                ),
                "declare what success yields",
            ),
            (
                quote!(
                    trait A {
                        async fn check() -> backstitch_sdk::Result<i64>;
                    }
                ),
                "goes without saying",
            ),
            (
                quote!(
                    trait A {
                        async fn check<T>(x: T);
                    }
                ),
                "cannot be generic",
            ),
            (
                quote!(
                    trait A {
                        async fn check() {}
                    }
                ),
                "no body here",
            ),
            (
                quote!(
                    trait A {
                        async fn with_options();
                    }
                ),
                "choose another name",
            ),
            (
                quote!(
                    trait A {
                        const X: u8;
                    }
                ),
                "holds only functions",
            ),
            (
                quote!(
                    trait A<T> {
                        async fn check();
                    }
                ),
                "neither generics nor supertraits",
            ),
            (
                quote!(
                    trait A {
                        async fn check((a, b): (u8, u8));
                    }
                ),
                "a plain name",
            ),
            (
                quote!(
                    struct A;
                ),
                "stands on a `trait`",
            ),
        ] {
            let message = expand(TokenStream::new(), item.clone()).expect_err("must be refused").to_string();
            assert!(message.contains(expected), "{item}: {message}");
        }
    }

    #[test]
    fn unknown_arguments_are_refused() {
        let error = expand(
            quote!(queue = "x"),
            quote!(
                trait A {
                    async fn check();
                }
            ),
        );
        assert!(error.expect_err("must be refused").to_string().contains("expected `task_queue"));
        let renamed = quote!(
            trait A {
                #[activity(names = "x")]
                async fn check();
            }
        );
        let error = expand(TokenStream::new(), renamed);
        assert!(error.expect_err("must be refused").to_string().contains("expected `name"));
    }
}
