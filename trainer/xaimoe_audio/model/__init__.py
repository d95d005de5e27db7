"""The network: frontend, glance, router, experts and head, and the model that holds them."""
