;; A component, but nothing in it.
(component)
