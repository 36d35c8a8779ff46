"""The project's addresses."""

from django.urls import path

from tests.django.orders import views

urlpatterns = [
    path("place", views.place),
    path("place-in-parts", views.place_in_parts),
    path("place-outside", views.place_outside),
    path("sale", views.sale),
    path("state/<int:pk>", views.state),
]
